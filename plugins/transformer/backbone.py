"""A modern decoder-only Transformer: the yardstick every other backbone is measured against.

Pre-norm blocks of grouped-query attention and SwiGLU, with rotary positions: the architecture
of Qwen2 (arXiv:2407.10671, section 2.2), so that the language model of CosyVoice2 fits into it.
``convert.py`` translates the names, ``README.md`` says where the parts come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.errors import ConfigError
from wishbone.plugins.engines import Engine, choose
from wishbone.plugins.transformer.attention import causal_attention
from wishbone.plugins.transformer.cache import Past, append_, plan_past, plan_step


@dataclass
class TransformerConfig:
    """Shape of the stack. The defaults are a small speech model of about 5 M parameters."""

    width: int = 256
    """D, numbers per position."""
    layers: int = 6
    """Number of blocks."""
    heads: int = 4
    """Query heads; each has width / heads numbers."""
    kv_heads: int = 2
    """Heads of keys and values; each serves heads / kv_heads query heads. Sets the cache size."""
    ffn_width: int = 768
    """Inner width of the feed-forward part."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies: the longest wave spans about 2 pi rope_theta positions."""
    norm_eps: float = 1e-6
    """Added to the mean square inside every RMSNorm."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias, as in Qwen2."""
    dropout: float = 0.0
    """Probability of dropping a number of a residual branch in training."""


def rotary(positions: Tensor, size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """positions [..., T] -> cosines and sines [..., T, K/2] of the angles, for ``size`` K.

    Channel j of K/2 turns by ``theta ** (-2 j / K)`` a position (RoFormer, arXiv:2104.09864,
    equation 15, in the half-split order of Qwen2). Angles are float32 at least.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    steps = torch.arange(0, size, 2, device=positions.device, dtype=exact)
    angles = positions.to(exact)[..., None] * theta ** (-steps / size)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn x [B, T, H, K] by the angles of its positions; channel j pairs with j + K/2."""
    cosines, sines = cosines.to(x.dtype)[..., None, :], sines.to(x.dtype)[..., None, :]
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cosines - high * sines, high * cosines + low * sines), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245) with rotary positions; one fused projection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.size = config.width // config.heads
        rows = (config.heads + 2 * config.kv_heads) * self.size
        self.qkv = nn.Linear(config.width, rows, bias=config.qkv_bias)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> queries [B, H, T, K], new keys and values [B, G, T, K]."""
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.size)
        turning, values = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        turned = rotate(turning, *angles).transpose(1, 2)
        queries, keys = turned.split((self.heads, self.kv_heads), dim=1)
        return queries, keys, values.transpose(1, 2)

    def forward(self, x: Tensor, past: Past, key: Tensor | None, value: Tensor | None) -> Any:
        """x [B, T, D] and the cache of this block -> y [B, T, D] and the longer cache."""
        queries, new_key, new_value = self.project(x, past.angles)
        key, value = past.join(key, new_key), past.join(value, new_value)
        y = self.attend(queries, key.to(queries.dtype), value.to(queries.dtype), past)
        return y, key, value

    def attend(self, queries: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
        """queries [B, H, T, K] over key, value [B, G, S, K] -> y [B, T, D]."""
        return self.output(self.mixed(queries, key, value, past))

    def mixed(self, queries: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
        """``attend`` before the last projection."""
        batch, _, length, size = queries.shape
        share = self.heads // self.kv_heads
        if length == 1 and past.bias is None:
            # One position that sees everything: the query heads of a group stand in for positions.
            queries = queries.reshape(batch, self.kv_heads, share, size)
            y = F.scaled_dot_product_attention(queries, key, value)
        elif past.causal:
            y = causal_attention(queries, key, value)
        else:
            y = F.scaled_dot_product_attention(
                queries, key, value, attn_mask=past.bias, enable_gqa=share > 1
            )
        return y.reshape(batch, -1, length, size).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202, equation 6): one fused projection to gate and content."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_ffn = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, past: Past, key: Tensor | None, value: Tensor | None) -> Any:
        y, key, value = self.attention(self.norm_attention(x), past, key, value)
        x = x + self.dropout(y)
        return x + self.dropout(self.ffn(self.norm_ffn(x))), key, value

    def step_(self, x: Tensor, past: Past, key: Tensor, value: Tensor) -> Any:
        """x [B, 1, D] -> y and the cache with one position appended in place where it can be."""
        attention = self.attention
        queries, new_key, new_value = attention.project(self.norm_attention(x), past.angles)
        key, value = append_(key, new_key, past), append_(value, new_value, past)
        seen = key.to(queries.dtype), value.to(queries.dtype)
        x = x + self.dropout(attention.attend(queries, *seen, past))
        return x + self.dropout(self.ffn(self.norm_ffn(x))), key, value


class Transformer(Backbone):
    """Decoder-only Transformer. State: ``length`` [B] and ``blocks.i.key``, ``blocks.i.value``.

    Caches are [B, G, T, K]. Row b holds its real positions in slots 0..length[b] - 1 with
    nothing between them and zeros behind, whatever padding they came with.
    """

    Config = TransformerConfig
    caps: ClassVar[Caps] = Caps(
        peft_targets=("attention.qkv", "attention.output", "ffn.gate_up", "ffn.down")
    )

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.width = config.width
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.RMSNorm(config.width, eps=config.norm_eps)
        self._engine: Engine | None = None
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> TransformerConfig:
        """A config for tests: two query heads share one head of keys."""
        return TransformerConfig(width=64, layers=2, heads=4, kv_heads=2, ffn_width=96)

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation sqrt(2 / 5D) (arXiv:1910.05895, section 2.2).

        The two matrices that write to the residual stream are smaller by sqrt(2 layers), so that
        the stream does not grow with depth (GPT-2). Biases start at zero, norms at one.
        """
        spread = math.sqrt(2 / (5 * self.width))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                residual = name.endswith(("output.weight", "down.weight"))
                depth = math.sqrt(2 * len(self.blocks)) if residual else 1.0
                nn.init.normal_(parameter, std=spread / depth)

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """An empty cache; keys and values are ``dtype``, by default that of the parameters."""
        weight = self.norm_out.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        size = self.width // self.config.heads
        state: State = {"length": torch.zeros(batch, dtype=torch.int64, device=device)}
        for name in self._names():
            state[name] = torch.zeros(
                batch, self.config.kv_heads, 0, size, device=device, dtype=dtype
            )
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As in ``Backbone``. Outputs at masked positions are zero."""
        if mask is None:
            return self._forward(x, state, None)
        # Real positions move to the front of their row; causality then keeps the rest out of them.
        count = mask.sum(1)
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(count.max())]
        index = order[..., None].expand(-1, -1, x.shape[2])
        packed, after = self._forward(x.gather(1, index), state, count)
        y = torch.zeros_like(x, dtype=packed.dtype).scatter(1, index, packed)
        return y * mask[..., None], after

    def _forward(
        self, x: Tensor, state: State | None, count: Tensor | None
    ) -> tuple[Tensor, State]:
        if x.shape[1] == 0:
            before = self.init_state(x.shape[0], device=x.device) if state is None else state
            return x.clone(), {name: tensor.clone() for name, tensor in before.items()}
        past = plan_past(x, state, count, self._angles)
        after: State = {"length": past.length_after}
        for number, block in enumerate(self.blocks):
            names = f"blocks.{number}.key", f"blocks.{number}.value"
            old = (None, None) if state is None else tuple(state[name] for name in names)
            x, key, value = block(x, past, *old)
            after[names[0]], after[names[1]] = past.trim(key), past.trim(value)
        return self.norm_out(x), after

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> Tensor:
        """As in ``Backbone``, without gradients: memory kept spare is written in place.

        Caches grow by half, so a step copies O(1) positions on average.
        """
        engine = self._engine
        if engine is not None and not self.training and engine.takes(x, state):
            return engine.step_(x, state)
        past = plan_step(x, state, self._angles)
        for number, block in enumerate(self.blocks):
            names = f"blocks.{number}.key", f"blocks.{number}.value"
            x, *grown = block.step_(x, past, *(state[name] for name in names))
            state.update(zip(names, grown, strict=True))
        state["length"] = past.length_after
        return self.norm_out(x)

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As in ``Backbone``: "native" is engine.py, "compiled" compiled.py, "graph" graph.py."""
        self._engine, used = choose(self, engine, weights, _ENGINES)
        return used

    def steps_narrow_state(self) -> bool:
        """As in ``Backbone``: the engine knows."""
        return self._engine is not None and self._engine.narrow

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Keys and values of every block, and the int64 length."""
        config = self.config
        size = config.width // config.heads
        return 8 + 2 * config.layers * config.kv_heads * size * length * dtype.itemsize

    @classmethod
    def count_parameters(cls, config: TransformerConfig) -> int:
        """layers (qkv + output + 3 feed-forward matrices + 2 norms) + the last norm."""
        width, size = config.width, config.width // config.heads
        rows = (config.heads + 2 * config.kv_heads) * size
        attention = rows * width + rows * config.qkv_bias + width * width
        return config.layers * (attention + 3 * width * config.ffn_width + 2 * width) + width

    def shardable(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def mixers(self) -> list[nn.Module]:
        """The attentions."""
        return [block.attention for block in self.blocks]

    def flops_per_position(self, context: int = 0) -> int:
        """Two per matrix weight, and four per channel of every position attended to."""
        attended = 4 * self.config.layers * self.width * (context + 1)
        return 2 * sum(p.numel() for p in self.parameters() if p.ndim > 1) + attended

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        size = self.width // self.config.heads
        return rotary(positions, size, self.config.rope_theta, dtype)

    def _names(self) -> list[str]:
        layers = range(self.config.layers)
        return [f"blocks.{i}.{part}" for i in layers for part in ("key", "value")]


def _native(backbone: Transformer, weights: str) -> Engine:
    from wishbone.plugins.transformer.engines.native import NativeTransformer

    return NativeTransformer(backbone, weights)


def _compiled(backbone: Transformer, weights: str) -> Engine:
    from wishbone.plugins.transformer.engines.compiled import CompiledTransformer

    return CompiledTransformer(backbone, weights)


def _graph(backbone: Transformer, weights: str) -> Engine:
    from wishbone.plugins.transformer.engines.cuda_graph import attach

    return attach(backbone, weights)


_ENGINES = {"native": _native, "compiled": _compiled, "graph": _graph}


def _check(config: TransformerConfig) -> None:
    whole = config.width % config.heads == 0 and config.heads % config.kv_heads == 0
    if not whole or (config.width // config.heads) % 2:
        raise ConfigError(
            f"a width of {config.width} does not divide into {config.heads} heads of an even size, "
            f"or these not into {config.kv_heads} groups",
            where="the transformer backbone's width, heads and kv_heads",
            do="make width a multiple of 2 * heads, and heads a multiple of kv_heads.",
        )
