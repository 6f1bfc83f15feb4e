"""Adapters begin at no change, count as their formulas say, merge, and learn what peft's learn."""

import copy

import pytest
import torch

pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")

import peft
from peft_bases import BASES, adapted, answer, moved, plain, vectors

from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.errors import CapabilityError, CheckpointError, ConfigError, UnknownName
from wishbone.core.system.loading import load_tensors
from wishbone.core.system.spec import resolve
from wishbone.core.testing import check
from wishbone.plugins.peft.backbone import PEFT
from wishbone.plugins.peft.layers import (
    DEFAULT,
    INITIAL,
    adapter_part,
    principal_factors,
    tuner_layers,
)
from wishbone.plugins.transformer.backbone import Transformer

ARMS = tuple(BASES)
METHODS = ("lora", "dora", "miss", "pissa")


@pytest.fixture(params=ARMS)
def arm(request):
    return request.param


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_it_begins_as_the_base(arm, method):
    """Exactly, but for PiSSA, which adds its factors and takes them away again."""
    base = plain(arm)
    x, model = vectors(base), adapted(base, arm, method=method)
    difference = (answer(model, x) - answer(base, x)).abs().max()
    assert difference <= (1e-5 if method == "pissa" else 0)
    # the control: an adapter that was changed is heard
    assert (answer(moved(model), x) - answer(base, x)).abs().max() > 1e-2


def test_trained_parameters_by_formula(arm, method):
    model = adapted(plain(arm), arm, method=method, rank=3)
    shapes = [(layer.out_features, layer.in_features) for layer in model.layers.values()]
    formula = {
        "lora": sum(3 * (rows + columns) for rows, columns in shapes),
        "pissa": sum(3 * (rows + columns) for rows, columns in shapes),
        "dora": sum(3 * (rows + columns) + rows for rows, columns in shapes),
        "miss": sum(3 * rows for rows, _ in shapes),
    }
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == formula[method]
    assert sum(p.numel() for p in model.parameters()) == PEFT.count_parameters(model.config)


def test_targets_choose_layers():
    model = adapted(plain("rwkv7"), "rwkv7", targets=["channel_mix.key", "output"])
    ends = {name.split(".", 2)[2] for name in tuner_layers(model.base)}
    assert ends == {"channel_mix.key", "time_mix.output"}


def test_merged_computes_the_same(arm, method):
    base = plain(arm)
    x, model = vectors(base), adapted(base, arm, seed=1, method=method)
    before = copy.deepcopy(model.state_dict())
    merged = model.merged()
    assert type(merged) is type(base) and merged.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(answer(merged, x), answer(model, x), rtol=1e-4, atol=1e-5)
    # going back is exact, because nothing was changed
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    none = model.merged("base")
    assert all(torch.equal(t, base.state_dict()[n]) for n, t in none.state_dict().items())


def test_a_checkpoint_comes_back_to_the_last_bit(arm, method):
    base = plain(arm)
    x, model = vectors(base), adapted(base, arm, seed=1, method=method)
    again = PEFT(model.config).eval()
    load_tensors(again, {name: t.clone() for name, t in model.state_dict().items()})
    assert torch.equal(answer(again, x), answer(model, x))


def test_adapter_gradients_are_slopes(arm, method):
    model = adapted(plain(arm), arm, seed=1, method=method).double()
    x = vectors(model).double()
    # the norm under DoRA's rows is held, by design (section 4.3), so A and B have another gradient
    ends = "magnitude_vector.default.weight" if method == "dora" else ""
    parameters = model.named_parameters()
    trained = [p for name, p in parameters if p.requires_grad and name.endswith(ends)]
    model(x)[0].square().sum().backward()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)
    for index, parameter in enumerate((trained[0], trained[1], trained[-1])):
        generator = torch.Generator().manual_seed(index)
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * way
                sides.append(model(x)[0].square().sum())
                parameter -= sign * 1e-6 * way
        slope = (parameter.grad * way).sum()
        torch.testing.assert_close((sides[0] - sides[1]) / 2e-6, slope, rtol=1e-5, atol=1e-5)


def trained_linear(model, x, target, steps=5):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    return model(x).detach()


@pytest.mark.parametrize("kind", ["float32", "nf4"])
def test_training_under_autocast(arm, method, kind):
    """bfloat16 products, float32 gradients near those of float32."""
    model = adapted(plain(arm), arm, seed=1, method=method, base_weights=kind).train()
    x, gradients = vectors(model), []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, _ = model(x)
        y.float().square().mean().backward()
        grads = [p.grad.flatten().clone() for p in model.parameters() if p.requires_grad]
        assert {g.dtype for g in grads} == {torch.float32}
        gradients.append(torch.cat(grads))
    assert (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()


class OneLayer(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.layer.weight = torch.nn.Parameter(weight.clone())

    def forward(self, x):
        return self.layer(x)


def test_pissa_trains_as_that_of_peft():
    """Whole base and two adapters, or residual and one: the same function after every step."""
    torch.manual_seed(0)
    weight, x, target = torch.randn(12, 20), torch.randn(7, 20), torch.randn(7, 12)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["layer"], init_lora_weights="pissa")
    reference = peft.inject_adapter_in_model(config, OneLayer(weight))
    expected = trained_linear(reference, x, target)

    ours = OneLayer(weight)
    for name in (DEFAULT, INITIAL):
        config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["layer"])
        peft.inject_adapter_in_model(config, ours, adapter_name=name)
    layer, factors = ours.layer, principal_factors(weight, 3, 2.0)
    with torch.no_grad():
        for name in (DEFAULT, INITIAL):
            for part, values in zip(("lora_A.weight", "lora_B.weight"), factors, strict=True):
                adapter_part(layer, part, name).copy_(values)
    layer.scaling[INITIAL] = -2.0
    layer._active_adapter = [DEFAULT, INITIAL]
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(".default" in name)
    torch.testing.assert_close(trained_linear(ours, x, target), expected, rtol=1e-4, atol=1e-5)


def test_the_principal_part_leaves_the_next_singular_value():
    torch.manual_seed(0)
    weight = torch.randn(30, 20, dtype=torch.float64)
    a, b = principal_factors(weight, 5, 2.0)
    values = torch.linalg.svdvals(weight)
    assert torch.linalg.matrix_norm(weight - 2.0 * b @ a, 2) == pytest.approx(values[5].item())


def test_the_contract_on_another_base():
    """tests/contract has the one on RWKV-7."""
    config = PEFT.Config(base=BASES["transformer"], rank=4)
    results = check("backbone", "peft", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def refused(error, message, **fields):
    with pytest.raises(error) as raised:
        PEFT(PEFT.Config(**({"base": BASES["rwkv7"], "rank": 4} | fields)))
    assert message in raised.value.what
    assert all(raised.value.lines()) and len(raised.value.lines()) == 3


def test_what_cannot_be_adapted_is_refused(monkeypatch):
    refused(ConfigError, "no method 'lara'", method="lara")
    refused(ConfigError, "rank of 0", rank=0)
    refused(ConfigError, "rank of 49 is above the 48", rank=49)
    refused(UnknownName, "ends in 'kei'", targets=["kei"])
    refused(ConfigError, "kept as 'int4'", base_weights="int4")
    refused(ConfigError, "alpha of 4", method="miss", alpha=4.0)
    refused(ConfigError, "which backbone to wrap", base={})
    refused(ConfigError, "cannot be called 'base'", adapters={"base": {"weights": "x"}})
    refused(ConfigError, "does not say where", start={"folder": "x"})
    monkeypatch.setattr(Transformer, "caps", Caps())
    refused(CapabilityError, "An adapter (peft) needs 'peft_targets'", base=BASES["transformer"])


def test_a_rank_of_the_whole_matrix_is_accepted():
    assert adapted(plain("rwkv7"), "rwkv7", rank=48, targets=["time_mix.key"])


def test_dora_needs_rows_that_point_somewhere():
    base = plain("rwkv7")
    with torch.no_grad():
        base.blocks[1].time_mix.output.weight[3] = 0
    with pytest.raises(ConfigError, match="rows of zeros"):
        adapted(base, "rwkv7", method="dora")


def test_weights_of_another_base_are_refused():
    wide = PEFT(PEFT.Config(base=BASES["rwkv7"] | {"layers": 3}, rank=4))
    with pytest.raises(CheckpointError):
        load_tensors(wide, plain("rwkv7").state_dict())


@pytest.mark.parametrize("kind", ["float32", "nf4"])
def test_the_base_may_lie_in_a_folder_of_its_own(method, kind, tmp_path):
    """Then a file of the adapter's tensors alone is enough."""
    from wishbone.core.system.loading import load_bases
    from wishbone.core.weights.tensor_files import write_tensors

    base = plain("rwkv7")
    write_tensors(tmp_path / "backbone.safetensors", base)
    section = BASES["rwkv7"] | {"weights": str(tmp_path)}
    config = PEFT.Config(base=section, method=method, rank=4, base_weights=kind)
    model, x = PEFT(config).eval(), vectors(base)
    load_bases(model)
    expected = adapted(base, "rwkv7", method=method, base_weights=kind)
    assert torch.equal(answer(model, x), answer(expected, x))
    moved(model, 1)
    alone = {name: model.state_dict()[name].clone() for name in model.own_names()}
    again = PEFT(config).eval()
    load_tensors(again, alone)
    assert torch.equal(answer(again, x), answer(model, x))


def test_a_missing_package_is_said_in_three_lines(monkeypatch):
    import sys

    from wishbone.core.contract.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra) as raised:
        PEFT(PEFT.small_config())
    assert "wishbone-tts[adapt]" in raised.value.do


def test_below_is_the_backbone_that_is_replaced():
    from wishbone.core.config.compose import merge

    under = {"backbone": {"name": "rwkv7", "width": 32}}
    over = {"backbone": {"name": "peft", "base": "below", "rank": 2}}
    merged = merge(under, over)
    assert merged["backbone"] == {"name": "peft", "base": under["backbone"], "rank": 2}
    # laid over itself once more, it still wraps the same
    assert merge(merged, over) == merged


def test_a_system_may_have_it(tmp_path):
    from wishbone.core.config.compose import compose

    over = {"backbone": {"name": "peft", "base": "below"}}
    config = resolve(compose("quickstart-rwkv7", over=over))
    assert config["backbone"]["base"]["layers"] == 6
