"""Learned first states: nothing before training, the right gradient, and what is refused."""

from dataclasses import replace

import pytest
import torch

from wishbone.core.contract.backbone import Backbone, Caps
from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.plugins.state_tuning.backbone import LowRank, StateTuned, check_base, tunable

RWKV7 = {"name": "rwkv7", "width": 32, "layers": 3, "head_size": 16}
KINDS = {"whole": {}, "rank 3": {"rank": 3}, "vectors": {"vectors": True}}


def tuned(base=RWKV7, seed=0, **fields):
    """A tuned backbone whose blocks are heard: RWKV-LM's first output matrices are zeros."""
    torch.manual_seed(seed)
    backbone = StateTuned(StateTuned.Config(base=dict(base), **fields)).eval()
    for name, parameter in backbone.base.named_parameters():
        if name.endswith(("output.weight", "channel_mix.value.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone


def stirred(backbone, seed=1):
    """The same with a learned state that is not zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.begin.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return backbone


def x(batch=2, length=9, seed=5):
    return torch.randn(batch, length, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_it_is_the_base_to_the_last_bit(kind):
    backbone = tuned(**KINDS[kind])
    with torch.no_grad():
        (y, state), (expected, after) = backbone(x()), backbone.base(x())
    assert torch.equal(y, expected)
    assert all(torch.equal(state[name], part) for name, part in after.items())
    assert state.keys() == after.keys()
    with torch.no_grad():
        y, _ = stirred(backbone)(x())
    # the comparison can fail
    assert not torch.allclose(y, expected, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_a_gradient_and_nothing_else_has(kind):
    backbone = tuned(**KINDS[kind])
    (backbone(x())[0] * x(seed=8)).sum().backward()
    for name, parameter in backbone.named_parameters():
        if name.startswith("base."):
            assert parameter.grad is None and not parameter.requires_grad
            continue
        assert parameter.grad.isfinite().all()
        # of a product of zero and something, only the zero moves at first
        assert bool(parameter.grad.abs().sum() > 0) != name.endswith("columns")


def test_the_gradient_is_the_slope():
    backbone = stirred(tuned(), seed=2).double()
    positions = x().double()
    mask = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])

    def loss():
        y, _ = backbone(positions, mask=mask)
        # squares would hardly change: a norm stands before them
        return (y * mask[..., None] * x(seed=8)).sum()

    loss().backward()
    for name in ("blocks-0-wkv", "blocks-2-wkv"):
        values = backbone.begin[name].whole
        for place in ((0, 1, 2), (1, 15, 0)):
            slope, middle = values.grad[place].item(), values[place].item()
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    values[place] = middle + step
                    sides.append(loss().item())
                    values[place] = middle
            assert slope == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)


def test_the_rows_of_a_batch_share_one_state_and_its_gradient():
    backbone, positions = stirred(tuned()), x(3)
    values = backbone.begin["blocks-1-wkv"].whole
    (backbone(positions)[0] * x(3, seed=8)).sum().backward()
    together = values.grad.clone()
    apart = torch.zeros_like(together)
    for row in range(3):
        values.grad = None
        (backbone(positions[row : row + 1])[0] * x(3, seed=8)[row]).sum().backward()
        apart += values.grad
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_steps_do_not_write_into_what_was_learned():
    backbone, positions = stirred(tuned(vectors=True)), x(1)
    learned = {name: part.clone() for name, part in backbone.learned().items()}
    with torch.no_grad():
        expected, _ = backbone(positions)
        for _ in range(2):
            state = backbone.init_state(1)
            y = [backbone.step_(positions[:, t : t + 1], state) for t in range(9)]
            torch.testing.assert_close(torch.cat(y, 1), expected, rtol=1e-4, atol=1e-5)
    for part in backbone.init_state(1).values():
        part.fill_(7.0)
    assert all(torch.equal(part, learned[name]) for name, part in backbone.learned().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_counts_the_parameters(kind):
    backbone = tuned(**KINDS[kind])
    count = sum(p.numel() for p in backbone.parameters())
    assert StateTuned.count_parameters(backbone.config) == count
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    matrices = 3 * 2 * 16 * 16
    expected = {"whole": matrices, "rank 3": 3 * 2 * 3 * 32, "vectors": matrices + 3 * 2 * 32}
    assert trained == expected[kind]


def test_the_state_has_its_own_rate_and_no_decay():
    backbone = tuned(rate=50.0)
    (group,) = backbone.parameter_groups(1e-3, 0.1)
    assert group["lr"] == pytest.approx(0.05) and group["weight_decay"] == 0.0
    assert {id(p) for p in group["params"]} == {id(p) for p in backbone.begin.parameters()}


def test_a_product_has_its_rank():
    part = LowRank((2, 16, 16), 3)
    torch.nn.init.normal_(part.rows)
    assert torch.linalg.matrix_rank(part()).tolist() == [3, 3]


class Sums(Backbone):
    """Linear attention with everything a state may hold: only its matrices can be learned."""

    caps = Caps(constant_state=True)

    def __init__(self):
        super().__init__()
        self.width = 8

    def init_state(self, batch, *, device=None, dtype=None):
        return {
            "memory": torch.zeros(batch, 2, 4, 4, device=device),
            "half": torch.zeros(batch, 2, 4, 4, device=device, dtype=torch.bfloat16),
            "window": torch.zeros(batch, 8, 3, device=device),
            "shift": torch.zeros(batch, 8, device=device),
            "count": torch.zeros(batch, dtype=torch.int64, device=device),
        }

    def forward(self, x, state=None, *, mask=None):
        return x, state

    def state_bytes(self, length, *, dtype=torch.float32):
        return 0

    @classmethod
    def count_parameters(cls, config):
        return 0


def test_only_matrices_of_a_state_are_learned():
    begin = Sums().init_state(1)
    assert tunable(begin) == ["memory"]
    assert tunable(begin, vectors=True) == ["memory", "shift"]
    check_base(Sums(), begin)


def test_what_cannot_be_tuned_is_refused():
    transformer = {"name": "transformer", "width": 32, "layers": 1, "heads": 2, "kv_heads": 1}
    with pytest.raises(CapabilityError, match="needs 'constant_state', and Transf") as caught:
        StateTuned(StateTuned.Config(base=transformer))
    assert len(caught.value.lines()) == 3 and "rwkv7" in caught.value.do
    begin = {name: part for name, part in Sums().init_state(1).items() if name != "memory"}
    with pytest.raises(CapabilityError, match="no float32 matrix"):
        check_base(Sums(), begin)
    with pytest.raises(ConfigError, match="Rank 17 is above that of 'blocks.0.wkv'"):
        tuned(rank=17)
    with pytest.raises(ConfigError, match="rank of -1"):
        tuned(rank=-1)
    with pytest.raises(ConfigError, match="does not say which"):
        StateTuned(replace(StateTuned.small_config(), base={}))
