"""The transformer backbone and ``transformers``' Qwen2 agree on random weights."""

import pytest
import torch

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.testing import trained_looking_
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig
from wishbone.plugins.transformer.convert import (
    config_from_qwen2,
    from_cosyvoice2,
    from_qwen2,
    to_qwen2,
)

transformers = pytest.importorskip(
    "transformers", reason="compares with Qwen2: pip install transformers"
)
LENGTH = 140


@pytest.fixture(scope="module")
def peer():
    config = transformers.Qwen2Config(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        # Their eager attention gives NaN under left padding in float64.
        attn_implementation="sdpa",
    )
    return trained_looking_(transformers.Qwen2Model(config), 0).double().eval()


@pytest.fixture(scope="module")
def state(peer):
    return {f"model.{name}": tensor for name, tensor in peer.state_dict().items()}


def build(peer, state, **changes):
    config = config_from_qwen2(peer.config.to_dict())
    for name, value in changes.items():
        setattr(config, name, value)
    ours = Transformer(config).double().eval()
    ours.load_state_dict(from_qwen2(state), strict=not changes)
    return ours


@pytest.fixture(scope="module")
def ours(peer, state):
    return build(peer, state)


def vectors(batch=2, length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 64, generator=generator, dtype=torch.float64)


def error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def test_prefill(peer, ours):
    x = vectors()
    assert error(ours(x)[0], peer(inputs_embeds=x).last_hidden_state) < 1e-6


@torch.no_grad()
def test_prefill_then_steps(peer, ours):
    x = vectors()
    first = peer(inputs_embeds=x[:, :120], use_cache=True)
    cache, actual, expected = first.past_key_values, [], [first.last_hidden_state]
    y, state = ours(x[:, :120])
    actual.append(y)
    for position in x[:, 120:].split(1, dim=1):
        actual.append(ours.step_(position, state))
        after = peer(inputs_embeds=position, past_key_values=cache, use_cache=True)
        cache = after.past_key_values
        expected.append(after.last_hidden_state)
    assert error(torch.cat(actual, 1), torch.cat(expected, 1)) < 1e-6


@torch.no_grad()
def test_left_padding(peer, ours):
    x = vectors(3, 20)
    mask = torch.arange(20) >= torch.tensor([[0], [7], [15]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = peer(inputs_embeds=x, attention_mask=mask.long(), position_ids=positions)
    actual, _ = ours(x, mask=mask)
    assert error(actual[mask], expected.last_hidden_state[mask]) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 20000.0},
        {"qkv_bias": False},
        {"norm_eps": 1e-2},
        {"kv_heads": 2, "heads": 2},
    ],
    ids=str,
)
def test_the_comparison_notices(peer, state, change):
    if "heads" in change:
        with pytest.raises(RuntimeError, match="size mismatch"):
            build(peer, state, **change)
        return
    x = vectors()
    actual, _ = build(peer, state, **change)(x)
    assert error(actual, peer(inputs_embeds=x).last_hidden_state) > 1e-3


@torch.no_grad()
def test_the_comparison_notices_swapped_parts(peer, state):
    swapped = dict(state)
    gate, up = (f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up"))
    swapped[gate], swapped[up] = state[up], state[gate]
    x = vectors()
    actual, _ = build(peer, swapped)(x)
    assert error(actual, peer(inputs_embeds=x).last_hidden_state) > 1e-3


def test_round_trip_is_exact(ours, state):
    back = to_qwen2(ours.state_dict(), ours.config)
    exact = {name: t for name, t in state.items() if "embed_tokens" not in name}
    assert back.keys() == exact.keys()
    assert all(torch.equal(back[name], exact[name]) for name in exact)
    again = from_qwen2(back)
    assert all(torch.equal(again[name], t) for name, t in ours.state_dict().items())


def test_every_name_is_accounted_for(ours, state):
    with pytest.raises(CheckpointError, match="model.layers.0.self_attn.q_norm.weight"):
        from_qwen2(state | {"model.layers.0.self_attn.q_norm.weight": torch.ones(1)})
    short = {name: t for name, t in state.items() if name != "model.norm.weight"}
    with pytest.raises(CheckpointError, match="model.norm.weight"):
        from_qwen2(short)
    part = {name: t for name, t in state.items() if name != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(CheckpointError, match="blocks.1.ffn.gate_up.weight"):
        from_qwen2(part)
    with pytest.raises(CheckpointError, match="extra.weight"):
        to_qwen2(ours.state_dict() | {"extra.weight": torch.ones(1)}, ours.config)


def test_a_model_of_another_architecture_is_refused(peer):
    plain = peer.config.to_dict()
    for change in ({"hidden_act": "gelu"}, {"use_sliding_window": True}, {"head_dim": 32}):
        with pytest.raises(CheckpointError):
            config_from_qwen2(plain | change)


def test_the_cosyvoice2_release_fits():
    """Names and shapes of ``llm.pt`` as published: 295 tensors."""
    with torch.device("meta"):
        tensors = _release()
        ours = Transformer(
            TransformerConfig(896, 24, 14, 2, 4864, rope_theta=1e6, norm_eps=1e-6)
        ).state_dict()
    assert len(tensors) == 295
    actual = from_cosyvoice2(tensors | {"epoch": 3, "step": 10})
    body = {n.removeprefix("backbone."): t.shape for n, t in actual.items() if "backbone." in n}
    assert body == {name: tensor.shape for name, tensor in ours.items()}
    assert {name: tuple(t.shape) for name, t in actual.items() if "backbone." not in name} == {
        "tables.marks.weight": (2, 896),
        "tables.text.weight": (151936, 896),
        "head.table.weight": (6564, 896),
        "head.output.weight": (6564, 896),
        "head.output.bias": (6564,),
    }
    del tensors["speech_embedding.weight"]
    with pytest.raises(CheckpointError, match="speech_embedding"):
        from_cosyvoice2(tensors)


def _release():
    body = "llm.model.model."
    shapes = {
        "llm_embedding.weight": (2, 896),
        "speech_embedding.weight": (6564, 896),
        "llm_decoder.weight": (6564, 896),
        "llm_decoder.bias": (6564,),
        "llm.model.lm_head.weight": (151936, 896),
        f"{body}embed_tokens.weight": (151936, 896),
        f"{body}norm.weight": (896,),
    }
    for i in range(24):
        layer = f"{body}layers.{i}."
        for part, rows in (("q", 896), ("k", 128), ("v", 128)):
            shapes[f"{layer}self_attn.{part}_proj.weight"] = (rows, 896)
            shapes[f"{layer}self_attn.{part}_proj.bias"] = (rows,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (896, 896)
        shapes[f"{layer}mlp.gate_proj.weight"] = (4864, 896)
        shapes[f"{layer}mlp.up_proj.weight"] = (4864, 896)
        shapes[f"{layer}mlp.down_proj.weight"] = (896, 4864)
        shapes[f"{layer}input_layernorm.weight"] = (896,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (896,)
    return {name: torch.empty(shape) for name, shape in shapes.items()}
