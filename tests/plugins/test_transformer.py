"""The transformer beyond the contract: rotary positions, memory of the cache, autocast, errors."""

import pytest
import torch
from torch.nn import functional as F

from wishbone.core.contract.errors import ConfigError
from wishbone.core.testing import trained_looking_
from wishbone.plugins.transformer.attention import ROWS, causal_attention
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.layers import rotary, rotate


def model(**changes):
    config = Transformer.small_config()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return trained_looking_(Transformer(config), 0).eval()


def test_rotation_keeps_length_and_depends_on_distance_alone():
    x = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    turned = [
        [rotate(v, *rotary(torch.tensor([[at]]), 8, 10000.0, torch.float64)) for at in (0, 3, 10)]
        for v in x
    ]
    assert torch.allclose(turned[0][2].norm(), x[0].norm())
    near = (turned[0][1] * turned[1][0]).sum()
    shifted = rotate(x[0], *rotary(torch.tensor([[13]]), 8, 10000.0, torch.float64))
    assert torch.allclose((shifted * turned[1][2]).sum(), near)
    assert not torch.allclose((turned[0][2] * turned[1][0]).sum(), near)


@pytest.mark.parametrize("length", [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 7])
def test_attention_by_rows_is_attention(length):
    queries = torch.randn(2, 4, length, 8, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 2, length, 8, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=True
    )
    assert torch.allclose(causal_attention(queries, keys, values), expected, atol=1e-12)


@torch.no_grad()
def test_a_step_copies_the_cache_rarely():
    backbone, places = model(), set()
    state = backbone.init_state(1)
    for position in torch.randn(300, 1, 1, 64):
        backbone.step_(position, state)
        places.add(state["blocks.0.key"].data_ptr())
    assert len(places) <= 5
    assert state["blocks.0.key"].shape == (1, 2, 300, 16)


@torch.no_grad()
def test_forks_of_a_stepped_dictionary_do_not_meet():
    backbone = model().double()
    x = torch.randn(4, 1, 1, 64, dtype=torch.float64)
    state = backbone.init_state(1, dtype=torch.float64)
    backbone.step_(x[0], state)
    fork = dict(state)
    backbone.step_(x[1], state)
    backbone.step_(x[2], fork)
    expected, _ = backbone(torch.cat((x[0], x[1], x[3]), 1))
    assert torch.allclose(backbone.step_(x[3], state), expected[:, 2:])
    expected, _ = backbone(torch.cat((x[0], x[2], x[3]), 1))
    assert torch.allclose(backbone.step_(x[3], fork), expected[:, 2:])


@torch.no_grad()
def test_a_row_cut_from_a_batch_can_be_stepped():
    backbone = model().double()
    x = torch.randn(2, 9, 64, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[4], [9]])
    _, state = backbone(x, mask=mask)
    first = {name: tensor[:1] for name, tensor in state.items()}
    more = torch.randn(1, 1, 64, dtype=torch.float64)
    expected, _ = backbone(torch.cat((x[:1, :4], more), 1))
    assert torch.allclose(backbone.step_(more, first), expected[:, 4:])
    assert first["blocks.0.key"].shape[2] == 5


def test_trains_under_autocast_with_padding():
    backbone = model(dropout=0.1).train()
    x = torch.randn(3, 12, 64, requires_grad=True)
    mask = torch.arange(12) < torch.tensor([[12], [3], [7]])
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = backbone(x, mask=mask)
    y[mask].float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    assert x.grad[mask].abs().sum() > 0 and x.grad[~mask].abs().sum() == 0


def test_dropout_is_random_in_training_alone():
    backbone, x = model(dropout=0.5), torch.randn(1, 5, 64)
    assert torch.equal(backbone(x)[0], backbone(x)[0])
    backbone.train()
    assert not torch.equal(backbone(x)[0], backbone(x)[0])


def test_new_weights_write_less_to_the_stream_the_deeper_they_are():
    config = Transformer.small_config()
    shallow = Transformer(config).blocks[0].ffn.down.weight.std()
    config.layers = 8
    deep = Transformer(config).blocks[0].ffn.down.weight.std()
    assert 1.8 < shallow / deep < 2.2


def test_a_step_costs_more_the_longer_the_past():
    backbone = model()
    more = backbone.flops_per_position(11) - backbone.flops_per_position(10)
    assert more == 4 * 2 * 64


@pytest.mark.parametrize("change", [{"heads": 5}, {"kv_heads": 3}, {"width": 12, "heads": 4}])
def test_shapes_that_do_not_divide_are_refused(change):
    with pytest.raises(ConfigError, match="does not divide"):
        model(**change)
