"""What a configuration of an RWKV-7 means that names no field, and its states and shapes."""

from dataclasses import asdict

import pytest
import torch

from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.plugins.rwkv7 import layers
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.layers import (
    ChannelMix,
    ChannelMixConfig,
    TimeMix,
    TimeMixConfig,
    check_heads,
)


def test_a_field_that_a_configuration_lacks_has_the_value_that_weights_were_made_with():
    """Configurations leave fields out: another default would read their weights wrongly."""
    ranks = {"decay_rank": 0, "rate_rank": 0, "value_rank": 0, "gate_rank": 0}
    mixing = {"head_size": 64, **ranks, "group_norm_eps": 64e-5}
    assert asdict(TimeMixConfig()) == mixing and asdict(ChannelMixConfig()) == {"width": 0}
    assert asdict(RWKV7.Config()) == {
        "width": 512, "layers": 12, "ffn_width": 0, "dropout": 0.0, **mixing,
    }  # fmt: skip


def test_the_plan_of_a_stack_is_its_configurations():
    config = RWKV7.Config(width=96, layers=3, head_size=32, ffn_width=100, dropout=0.25)
    plan = RWKV7.planned(config)
    assert (plan.width, len(plan.entries), plan.order) == (96, 3, (0, 1, 2))
    assert (plan.layer_norm, plan.norm_in, plan.start) == (True, True, False)
    assert (plan.norm_eps, plan.dropout) == (1e-5, 0.25)
    assert RWKV7.small_config().layers > 1 and RWKV7.small_config().ffn_width % 32


@pytest.mark.parametrize(("width", "size"), [(0, 1), (-4, 2), (4, 0), (4, -2), (6, 4)])
def test_heads_that_do_not_fill_the_width_are_refused(width, size):
    with pytest.raises(ConfigError, match=f"Width {width} is not a multiple of head size {size}"):
        check_heads(width, size)


def test_one_head_may_be_all_of_the_width():
    assert check_heads(1, 1) == 1 and check_heads(64, 64) == 1 and check_heads(192, 64) == 3


def test_low_ranks_are_a_multiple_of_32_and_never_less():
    assert [layers.rank(2.5, width) for width in (1, 64, 300, 400, 600)] == [32, 32, 32, 64, 64]
    place = Place(96)
    named = {"decay_rank": 3, "rate_rank": 5, "value_rank": 7, "gate_rank": 9}
    half = TimeMix(TimeMixConfig(head_size=32, **named), place)
    assert (half.w1.shape, half.a1.shape, half.g1.shape) == ((96, 3), (96, 5), (96, 9))
    plain = TimeMix(TimeMixConfig(head_size=32), Place(1024, 1, 2, (layers.FIRST,), start=False))
    shapes = [getattr(plain, name).shape[1] for name in ("w1", "a1", "v1", "g1")]
    assert shapes == [64, 64, 64, 160] and plain.adds_first and not half.adds_first


def test_a_state_begins_with_zeros_of_its_types():
    half = TimeMix(TimeMixConfig(head_size=16), Place(48))
    state = half.init_state(2, torch.device("cpu"), torch.bfloat16)
    assert state["wkv"].shape == (2, 3, 16, 16) and state["wkv"].dtype == torch.float32
    assert state["time_shift"].shape == (2, 48) and state["time_shift"].dtype == torch.bfloat16
    assert not any(tensor.any() for tensor in state.values())
    assert half.operations() == half.operations(7) == 9 * 48 * 16


@pytest.mark.parametrize(("own", "stack", "inner"), [(7, 9, 7), (0, 9, 9), (0, 0, 192)])
def test_the_inner_width_is_the_halfs_the_stacks_or_four_times(own, stack, inner):
    half = ChannelMix(ChannelMixConfig(own), Place(48, ffn_width=stack))
    assert half.key.weight.shape == (inner, 48) and half.value.weight.shape == (48, inner)
    state = half.init_state(3, torch.device("cpu"), torch.float32)
    assert state["channel_shift"].shape == (3, 48) and not state["channel_shift"].any()


def test_the_square_of_what_is_positive_has_its_own_backward():
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    y = layers._SquaredReLU.apply(x)
    y.backward(torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64))
    assert y.tolist() == [0.0, 0.0, 0.25, 9.0] and x.grad.tolist() == [0.0, 0.0, 1.0, 12.0]


def test_parameters_on_no_device_are_left_as_they_are():
    weight = torch.empty(4, 4, device="meta")
    layers._orthogonal(weight, 1.0)
    plain = torch.zeros(4, 4)
    layers._orthogonal(plain, 3.0)
    assert torch.allclose(plain @ plain.T, 9 * torch.eye(4), atol=1e-5)


def test_the_smallest_stack_that_there_is_starts_with_numbers():
    stack = RWKV7(RWKV7.Config(width=1, layers=1, head_size=1, ffn_width=1))
    assert all(parameter.isfinite().all() for parameter in stack.parameters())
    assert stack(torch.ones(1, 2, 1))[0].isfinite().all()


@pytest.mark.parametrize("layer", [0, 1])
def test_rates_start_as_the_official_ones_do(layer):
    size, width, layers_ = 4, 12, 2
    half = TimeMix(TimeMixConfig(head_size=size), Place(width, layer, layers_, (layers.FIRST,)))
    n = torch.arange(width, dtype=torch.float32)
    tooth = (n % size - 1.5) / 1.5
    expected = -0.19 + 0.3 * tooth * tooth.abs() + 0.4 * (n / 11 - 0.5)
    assert torch.allclose(half.a0, expected, atol=1e-6)
    # the second factors are orthogonal, a tenth as long where they are no higher than wide
    for up in (half.w2, half.a2, half.v2, half.g2):
        gain = 0.1 * max(1.0, up.shape[0] / up.shape[1]) ** 0.5
        assert torch.allclose(up.T @ up, gain**2 * torch.eye(width), atol=1e-6)
    assert not any(down.any() for down in (half.w1, half.a1, half.v1, half.g1))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", [TimeMix, ChannelMix])
def test_a_step_is_one_position_of_what_is_trained(kind, autocast):
    torch.manual_seed(3)
    half = kind(kind.small_config() if kind is TimeMix else ChannelMixConfig(), Place(48))
    for parameter in half.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, state = torch.randn(2, 48), half.init_state(2, torch.device("cpu"), torch.float32)
    state = {name: torch.randn_like(part) for name, part in state.items()}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, after = half.step(x, dict(state), Call())
        expected, later = half.forward(x[:, None], dict(state), Call())
    if autocast:
        # the same operations, to the last bit
        assert torch.equal(y, expected[:, 0])
        assert all(torch.equal(after[name], later[name]) for name in later)
    else:
        assert torch.allclose(y, expected[:, 0], atol=1e-4, rtol=1e-4)
        assert all(torch.allclose(after[name], later[name], atol=1e-4) for name in later)
