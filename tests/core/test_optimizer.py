"""Which parameters Muon takes, and its iteration in float32 beside PyTorch's in bfloat16."""

import pytest
import torch
from tiny_corpus import write_recipe

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.system.build import build_model  # noqa: E402
from wishbone.core.train import optimizer  # noqa: E402
from wishbone.core.train.optimizer import Float32Muon, make_optimizer, orthogonal  # noqa: E402
from wishbone.core.train.recipe import read_recipe  # noqa: E402


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_muon_takes_the_matrices_inside_the_backbone_and_adamw_the_rest(tmp_path, precision):
    words = ["optimizer=muon", "muon_rate=5", f"precision={precision}"]
    recipe, system = read_recipe(write_recipe(tmp_path), words)
    model = build_model(system, "cpu")
    both = make_optimizer(model, recipe)
    assert isinstance(both.parts[1], Float32Muon) == (precision == "fp32")
    adamw, muon = ({id(p) for g in part.param_groups for p in g["params"]} for part in both.parts)
    inside = {id(p) for p in model.backbone.parameters() if p.ndim == 2 and min(p.shape) >= 16}
    assert muon == inside and adamw == {id(p) for p in model.parameters()} - inside
    rates = {group["highest"] for group in both.parts[1].param_groups}
    assert max(rates) == pytest.approx(5 * recipe.learning_rate)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    both.step()
    # a step of Muon has the length of one of AdamW, so it is told apart by its singular values
    for name, p in model.named_parameters():
        step = (p.detach() - before[name]).float()
        if id(p) in inside:
            sizes = torch.linalg.svdvals(step)
            assert sizes.max() < 2.5 * sizes.min(), name


def test_the_smallest_matrix_that_muon_takes_is_one_of_its_own(tmp_path, monkeypatch):
    recipe, system = read_recipe(write_recipe(tmp_path), ["optimizer=muon"])
    model = build_model(system, "cpu")
    sizes = [min(p.shape) for p in model.backbone.parameters() if p.ndim == 2]
    monkeypatch.setattr(optimizer, "SMALLEST", max(sizes))
    taken = [p for group in make_optimizer(model, recipe).parts[1].param_groups
             for p in group["params"]]  # fmt: skip
    assert len(taken) == sizes.count(max(sizes)) > 0


def steps_of(kind, shape, steps=3, **options):
    """The matrix after some steps on the same gradients."""
    draw = torch.Generator().manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(shape, generator=draw))  # [m, n]
    muon = kind([parameter], 0.1, adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(steps):
        parameter.grad = torch.randn(shape, generator=draw)  # [m, n]
        muon.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(32, 32), (24, 96), (96, 24)])
def test_steps_in_float32_are_those_of_pytorch(shape):
    ours, theirs = (steps_of(kind, shape) for kind in (Float32Muon, torch.optim.Muon))
    change = (theirs - steps_of(torch.optim.Muon, shape, 0)).norm()
    assert (ours - theirs).norm() / change < 0.02  # bfloat16 has 8 bits
    # what decides a step, changed, is seen
    for changed in ({"momentum": 0.5}, {"weight_decay": 0.5}, {"ns_coefficients": (2, -1.5, 0.5)},
                    {"nesterov": False}, {"ns_steps": 3}):  # fmt: skip
        other = steps_of(Float32Muon, shape, **changed)
        assert (other - theirs).norm() / change > 0.04, changed
        same = steps_of(torch.optim.Muon, shape, **changed)
        assert (other - same).norm() / change < 0.02, changed


def test_a_matrix_of_zeros_stays_one_and_a_transposed_one_gives_the_transposed():
    coefficients = (3.4445, -4.7750, 2.0315)
    assert not orthogonal(torch.zeros(4, 6), coefficients, 5).any()
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    turned = orthogonal(matrix.T.contiguous(), coefficients, 5)
    torch.testing.assert_close(turned.T, orthogonal(matrix, coefficients, 5))
