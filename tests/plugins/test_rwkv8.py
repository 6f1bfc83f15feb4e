"""RWKV-8's parts: ROSA with symbols of several bits, and DeepEmbed at the output."""

import pytest
import torch
from oracle_parts import WIDTH, built, inputs

from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.core.testing import check
from wishbone.plugins.deep_embed.ffn import OF_CODEBOOK, OF_TABLE, DeepEmbed
from wishbone.plugins.rosa.mixer import Rosa
from wishbone.plugins.rwkv7.layers import ChannelMix


def answer(q, k, v, t):
    """The value after the longest earlier match of what ends at t, or None; every place tried."""
    best, found = 0, None
    for j in range(t - 1, -1, -1):
        length = 0
        while length <= j and torch.equal(q[t - length], k[j - length]):
            length += 1
        if length > best:
            best, found = length, v[j + 1]
    return found


def by_hand(half, x, count):
    """The layer's output for row 0, symbol by symbol; without a match 0, or -e for single bits."""
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    parts = [x + (before - x) * mix for mix in half.mix]
    layers = (half.query, half.key, half.value)
    q, k, v = (layer(part) > 0 for layer, part in zip(layers, parts, strict=True))  # [T, D]
    rows = []
    for t in range(len(x)):
        row = torch.full((WIDTH,), -1.0 if count == 1 else 0.0, dtype=x.dtype)
        for first in range(0, WIDTH, count):
            part = slice(first, first + count)
            bits = answer(q[:, part], k[:, part], v[:, part], t)
            if bits is not None:
                row[part] = 2.0 * bits - 1
        rows.append(row)
    return half.output(half.amplitude * torch.stack(rows))


@pytest.mark.parametrize("count", [1, 2, 4])
@torch.no_grad()
def test_symbols_are_matched_as_a_whole(count):
    half = built(Rosa, Rosa.Config(bits=count)).double()
    x = inputs(30).double().round(decimals=1)
    x[:, 10:20] = x[:, :10]  # what happened before happens again
    call = Call(start=torch.zeros(2, dtype=torch.int64))
    y, after = half(x, half.init_state(2, x.device, x.dtype), call)
    expected = by_hand(half, x[0], count)
    assert (y[0] - expected).abs().max() < 1e-12
    assert after["keys"].shape == (2, 30, WIDTH // count) and int(after["keys"].max()) < 2**count
    other = built(Rosa, Rosa.Config(bits=3)).double()  # control: symbols of another size
    assert (other(x, other.init_state(2, x.device, x.dtype), call)[0][0] - expected).abs().max() > 1


@pytest.mark.parametrize("fields", [{"bits": 4}, {"bits": 8, "straight_through": True}], ids=str)
def test_any_number_of_bits_keeps_the_contract(fields):
    config = Rosa.Config(**{"straight_through": False, **fields})
    if config.straight_through:  # its gradient is of something smooth, and differences are not
        names = {r.name for r in check("mixer", "rosa", config) if not r.passed}
        assert names <= {"gradient"}
        return
    results = check("mixer", "rosa", config)
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_a_width_of_no_whole_symbols_is_refused():
    with pytest.raises(ConfigError, match="48 channels make no symbols of 5 bits"):
        Rosa(Rosa.Config(bits=5), Place(WIDTH))


@torch.no_grad()
def test_deep_embed_at_the_output_is_rwkv8s():
    half = built(DeepEmbed, DeepEmbed.Config(at="output", rows=64), spread=0.2).double()
    x = inputs(20).double()
    table, ids = torch.zeros(2, 20, dtype=torch.int64), torch.randint(0, 60, (2, 20, 2))
    table[:, :5] = 1
    y, _ = half(x, half.init_state(2, x.device, x.dtype), Call(table=table, ids=ids))
    previous = torch.zeros(WIDTH, dtype=x.dtype)
    for t in range(20):
        k = torch.relu(half.key.weight @ (x[0, t] + (previous - x[0, t]) * half.mix)) ** 2
        expected = half.value.weight @ k
        for book in range(2):
            row = int(ids[0, t, book]) + OF_TABLE * int(table[0, t]) + OF_CODEBOOK * book
            expected = expected * half.table.weight[row % 64]
        assert (y[0, t] - expected).abs().max() < 1e-12
        previous = x[0, t]
    y_other, _ = half(
        x, half.init_state(2, x.device, x.dtype), Call(table=table, ids=ids.roll(1, 1))
    )
    assert (y_other - y).abs().max() > 1e-2  # control: other ids


@torch.no_grad()
def test_deep_embed_at_the_output_begins_as_channel_mixing():
    torch.manual_seed(0)
    half = DeepEmbed(DeepEmbed.Config(at="output", rows=64), Place(WIDTH, 1, 3))
    plain = ChannelMix(ChannelMix.Config(), Place(WIDTH, 1, 3))
    torch.nn.init.normal_(half.value.weight)
    plain.load_state_dict({"mix": half.mix[None], "key.weight": half.key.weight,
                           "value.weight": half.value.weight})  # fmt: skip
    x, table = inputs(9), torch.zeros(2, 9, dtype=torch.int64)
    call = Call(table=table, ids=torch.randint(0, 60, (2, 9, 1)))
    y, _ = half(x, half.init_state(2, x.device, x.dtype), call)
    expected, _ = plain(x, plain.init_state(2, x.device, x.dtype), Call())
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


def test_deep_embed_at_the_output_keeps_the_contract():
    results = check("ffn", "deep_embed", DeepEmbed.Config(at="output", rows=64))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []
