"""A modern decoder-only Transformer: the yardstick every other backbone is measured against.

Pre-norm blocks of grouped-query attention and SwiGLU, with rotary positions: the architecture
of Qwen2 (arXiv:2407.10671, section 2.2), so that the language model of CosyVoice2 fits into it.

    for every block:                              its equations are in layers.py
        x = x + attention(norm_attention(x))      reads and extends the cache of keys and values
        x = x + ffn(norm_ffn(x))
    y = norm_out(x)

``cache.py`` keeps the cache, ``convert.py`` translates the names of the weights, ``README.md`` says
where the parts come from.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.errors import ConfigError
from wishbone.plugins.engines import Engine, choose
from wishbone.plugins.transformer.cache import plan_past, plan_step
from wishbone.plugins.transformer.engines.cuda_graph import attach
from wishbone.plugins.transformer.engines.native import NativeTransformer
from wishbone.plugins.transformer.layers import Block, TransformerConfig, rotary

ENGINES = {"native": NativeTransformer, "graph": attach}
"""Ways to compute a step faster than plain PyTorch: in C++, and as a CUDA graph."""


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
        _check_heads(config)
        self.config = config
        self.width = config.width
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm_out = nn.RMSNorm(config.width, eps=config.norm_eps)
        self._engine: Engine | None = None
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> TransformerConfig:
        """Return a config for tests: two query heads share one head of keys."""
        return TransformerConfig(width=64, layers=2, heads=4, kv_heads=2, ffn_width=96)

    def reset_parameters(self) -> None:
        """Draw normal weights of standard deviation sqrt(2 / 5D) (arXiv:1910.05895, section 2.2).

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
        """Return an empty cache; ``dtype`` of keys and values is by default the model's."""
        weight = self.norm_out.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        size = self.width // self.config.heads
        state: State = {"length": torch.zeros(batch, dtype=torch.int64, device=device)}
        for name in self._names():
            state[name] = torch.zeros(
                batch, self.config.kv_heads, 0, size, device=device, dtype=dtype
            )  # [B, G, 0, K]
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As in ``Backbone``. Outputs at masked positions are zero."""
        if mask is None:
            return self._forward(x, state, None)
        # Real positions move to the front of their row; causality then hides padding from them.
        count = mask.sum(1)  # [B]
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # [B, T]
        order = order[:, : int(count.max())]  # [B, P], P real positions of the longest row
        index = order[..., None].expand(-1, -1, x.shape[2])  # [B, P, D]
        packed, after = self._forward(x.gather(1, index), state, count)  # [B, P, D]
        y = torch.zeros_like(x, dtype=packed.dtype).scatter(1, index, packed)  # [B, T, D]
        return y * mask[..., None], after

    def _forward(
        self, x: Tensor, state: State | None, count: Tensor | None
    ) -> tuple[Tensor, State]:
        if x.shape[1] == 0:
            before = self.init_state(x.shape[0], device=x.device) if state is None else state
            return x.clone(), {name: tensor.clone() for name, tensor in before.items()}
        before = None if state is None else state["length"]  # [B]
        past = plan_past(x, before, count, self._angles)
        after: State = {"length": past.length_after}
        for number, block in enumerate(self.blocks):
            names = f"blocks.{number}.key", f"blocks.{number}.value"
            old = (None, None) if state is None else tuple(state[name] for name in names)
            x, key, value = block(x, past, *old)  # [B, T, D], [B, G, S, K], [B, G, S, K]
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
        past = plan_step(x, state["length"], self._angles)
        for number, block in enumerate(self.blocks):
            names = f"blocks.{number}.key", f"blocks.{number}.value"
            x, *cache = block.step_(x, past, *(state[name] for name in names))  # [B, 1, D], ...
            state.update(zip(names, cache, strict=True))
        state["length"] = past.length_after
        return self.norm_out(x)

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As in ``Backbone``; ``ENGINES`` are the names beside "auto" and "eager"."""
        self._engine, used = choose(self, engine, weights, ENGINES)
        return used

    def steps_narrow_state(self) -> bool:
        """As in ``Backbone``: an attribute of the engine."""
        return self._engine is not None and self._engine.narrow

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Count keys and values of every block, and the int64 length."""
        config = self.config
        size = config.width // config.heads
        return 8 + 2 * config.layers * config.kv_heads * size * length * dtype.itemsize

    @classmethod
    def count_parameters(cls, config: TransformerConfig) -> int:
        """Count layers (qkv + output + 3 feed-forward matrices + 2 norms) + the last norm."""
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
        """Count two per matrix weight, and four per channel of every position attended to."""
        attended = 4 * self.config.layers * self.width * (context + 1)
        return 2 * sum(p.numel() for p in self.parameters() if p.ndim > 1) + attended

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        size = self.width // self.config.heads
        return rotary(positions, size, self.config.rope_theta, dtype)

    def _names(self) -> list[str]:
        layers = range(self.config.layers)
        return [f"blocks.{i}.{part}" for i in layers for part in ("key", "value")]


def _check_heads(config: TransformerConfig) -> None:
    divides = config.width % config.heads == 0 and config.heads % config.kv_heads == 0
    if not divides or (config.width // config.heads) % 2:
        raise ConfigError(
            f"a width of {config.width} does not divide into {config.heads} heads of an even size, "
            f"or these not into {config.kv_heads} groups",
            where="the transformer backbone's width, heads and kv_heads",
            do="make width a multiple of 2 * heads, and heads a multiple of kv_heads.",
        )
