"""A Transformer's blocks with RWKV-7's time mixing where attention was (ARWKV, arXiv 2501.15570).

Norms, feed-forward parts and their names are those of ``wishbone.plugins.transformer``, so that a
trained Transformer's fit as they are; the time mixing is that of ``wishbone.plugins.rwkv7``, with
its kernels. ``README.md`` tells in what it differs from the published ARWKV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.errors import ConfigError
from wishbone.plugins.rwkv7.backbone import flops_per_position, parameter_groups, scan_form
from wishbone.plugins.rwkv7.layers import Shape, TimeMix, TokenShift
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.layers import Attention, FeedForward

RESIDUAL = 5
"""A matrix begins with normal weights of variance 2 / (RESIDUAL width), as in the Transformer."""


@dataclass
class ARWKVConfig:
    """Shape of the stack; ``width``, ``layers``, ``ffn_width``, ``norm_eps`` are the teacher's."""

    width: int = 256
    """D, a multiple of head_size."""
    layers: int = 6
    """Number of blocks."""
    ffn_width: int = 768
    """Inner width of the feed-forward part."""
    norm_eps: float = 1e-6
    """Added to the mean square inside every RMSNorm."""
    head_size: int = 64
    """K and V of one head of time mixing; the teacher's heads may have another size."""
    decay_rank: int = 0
    """Rank of the decay's low-rank product; 0 means RWKV-LM's rule for this width."""
    rate_rank: int = 0
    """Rank for a, the in-context learning rate; 0 means the rule."""
    value_rank: int = 0
    """Rank for the share of the first block's value; 0 means the rule."""
    gate_rank: int = 0
    """Rank for the output gate; 0 means the rule."""
    group_norm_eps: float = 64e-5
    """Of the norm after WKV."""
    dropout: float = 0.0
    """Probability of dropping a number of a residual branch in training."""


class Block(nn.Module):
    """x + time mixing(norm(x)), then x + feed-forward(norm(x)); names as in the Transformer's."""

    def __init__(self, config: ARWKVConfig, shape: Shape, layer: int) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.time_mix = TimeMix(shape, layer)
        self.norm_ffn = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, v_first: Tensor | None, wkv: Tensor, shift: Tensor, order: TokenShift
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, T, D] -> y [B, T, D], v_first, wkv, shift.

        v_first [B, T, D] is v of block 0, or None in it; wkv [B, H, V, K], shift [B, D].
        """
        h = self.norm_attention(x)  # [B, T, D]
        out, v_first, wkv, shift = self.time_mix(h, v_first, wkv, shift, order)
        x = x + self.dropout(out)  # [B, T, D]
        x = x + self.dropout(self.ffn(self.norm_ffn(x)))  # [B, T, D]
        return x, v_first, wkv, shift


class ARWKV(Backbone):
    """RMSNorm, time mixing and SwiGLU in pre-norm blocks; a state of constant size.

    State, per block i: ``blocks.i.wkv`` [B, H, V, K] float32 and ``blocks.i.time_shift`` [B, D],
    as in ``RWKV7``; the feed-forward part sees one position and remembers nothing.
    """

    Config = ARWKVConfig
    caps = Caps(
        constant_state=True,
        peft_targets=("receptance", "key", "value", "output", "ffn.gate_up", "ffn.down"),
    )

    def __init__(self, config: ARWKVConfig) -> None:
        super().__init__()
        self.config = config
        self.shape = Shape.of(config)
        self.width = config.width
        self.blocks = nn.ModuleList(Block(config, self.shape, i) for i in range(config.layers))
        self.norm_out = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> ARWKVConfig:
        """For the contract suites: three heads, and an inner width that is no multiple of them."""
        return ARWKVConfig(width=48, layers=3, head_size=16, ffn_width=112)

    def reset_parameters(self) -> None:
        """Time mixing as RWKV-LM starts it, the feed-forward part as the Transformer does."""
        spread = (2 / (RESIDUAL * self.width)) ** 0.5
        for i, block in enumerate(self.blocks):
            block.time_mix.reset_parameters(self.shape, i)
            nn.init.normal_(block.ffn.gate_up.weight, std=spread)
            nn.init.normal_(block.ffn.down.weight, std=spread / (2 * len(self.blocks)) ** 0.5)

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """Return zeros. The shifts take ``dtype``, by default the model's."""
        weight = self.norm_out.weight
        device = weight.device if device is None else device
        dtype = weight.dtype if dtype is None else dtype
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        heads, size = self.shape.heads, self.shape.head_size
        state: State = {}
        for i in range(len(self.blocks)):
            wkv = torch.zeros(batch, heads, size, size, device=device, dtype=kind)  # [B, H, V, K]
            shift = torch.zeros(batch, self.width, device=device, dtype=dtype)  # [B, D]
            state |= {f"blocks.{i}.wkv": wkv, f"blocks.{i}.time_shift": shift}
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state. Outputs at masked positions mean nothing."""
        state = self.init_state(len(x), device=x.device) if state is None else state
        if not x.shape[1]:
            return x, dict(state)
        order = TokenShift(mask, x)
        if order.mask is not None:
            x = x.masked_fill(~order.mask[..., None], 0)  # [B, T, D]
        after: State = {}
        v_first = None
        for i, block in enumerate(self.blocks):
            wkv, time = f"blocks.{i}.wkv", f"blocks.{i}.time_shift"
            x, v_first, after[wkv], shift = block(x, v_first, state[wkv], state[time], order)
            after[time] = shift.to(state[time].dtype)  # [B, D]
        return self.norm_out(x), after

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> Tensor:
        """As in ``Backbone``, without gradient; plain steps put new tensors into ``state``."""
        if torch.is_autocast_enabled(x.device.type):
            return super().step_(x, state)
        x, v_first = x[:, 0], None  # [B, D]
        for i, block in enumerate(self.blocks):
            wkv, time = f"blocks.{i}.wkv", f"blocks.{i}.time_shift"
            h = block.norm_attention(x)  # [B, D]
            out, v_first, state[wkv] = block.time_mix.step(h, v_first, state[wkv], state[time])
            state[time] = h.to(state[time].dtype)  # [B, D]
            x = x + block.dropout(out)  # [B, D]
            x = x + block.dropout(block.ffn(block.norm_ffn(x)))  # [B, D]
        return self.norm_out(x)[:, None]

    def inherit(self, other: Backbone) -> None:
        """Take over a Transformer's norms and feed-forward parts, and start from its projections.

        Receptance, key, value and output begin as its queries, keys, values and output (RADLADS,
        arXiv 2505.03005, section 3); keys and values that heads share are repeated, rotation and
        biases have no counterpart. Raises ``ConfigError`` where the stacks differ in shape.
        """
        if isinstance(other, Transformer):
            _check_same_shape(self.config, other)
            for block, source in zip(self.blocks, other.blocks, strict=True):
                _start(block.time_mix, source.attention)
        super().inherit(other)

    def mixers(self) -> list[nn.Module]:
        """Time mixing of every block."""
        return [block.time_mix for block in self.blocks]

    def shardable(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def training_form(self) -> str:
        """Name the scan's form, and why it is not the Triton kernels where they do not run."""
        return scan_form(self.norm_out.weight)

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Count one matrix per head and one vector per block; the same for every ``length``."""
        matrix_bytes = 8 if dtype == torch.float64 else 4
        matrices = self.shape.heads * self.shape.head_size**2
        return len(self.blocks) * (matrix_bytes * matrices + self.width * dtype.itemsize)

    @classmethod
    def count_parameters(cls, config: ARWKVConfig) -> int:
        """Count time mixing and feed-forward part of all blocks, two norms each, the last norm."""
        shape = Shape.of(config)
        others = 3 * shape.width * shape.ffn_width + 2 * shape.width
        return shape.time_parameters() + shape.layers * others + shape.width

    def flops_per_position(self, context: int = 0) -> int:
        """Count every matrix once, and nine operations per number of the WKV state."""
        return flops_per_position(self, self.shape)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """RWKV-LM's: decay for ``.weight`` matrices alone, twice the rate for ``w0``."""
        return parameter_groups(self, learning_rate, weight_decay)


def _check_same_shape(config: ARWKVConfig, other: Transformer) -> None:
    fields = ("width", "layers", "ffn_width", "norm_eps")
    pairs = [(name, getattr(config, name), getattr(other.config, name)) for name in fields]
    differ = [
        f"{name} {value}, the Transformer's {other_value}"
        for name, value, other_value in pairs
        if value != other_value
    ]
    if differ:
        raise ConfigError(
            f"The arwkv backbone has {'; '.join(differ)}, so its blocks cannot be taken over.",
            "the backbone slot of the student",
            "Give the student the teacher's values.",
        )


@torch.no_grad()
def _start(time: TimeMix, attention: Attention) -> None:
    """Copy an attention's projections; keys and values that heads share are repeated."""
    heads, kv_heads, size = attention.heads, attention.kv_heads, attention.size
    sizes = (heads * size, kv_heads * size, kv_heads * size)
    queries, keys, values = attention.qkv.weight.split(sizes)  # [H K, D], [G K, D], [G K, D]
    time.receptance.weight.copy_(queries)
    for target, shared in ((time.key, keys), (time.value, values)):
        per_group = shared.unflatten(0, (kv_heads, size))  # [G, K, D]
        per_head = per_group.repeat_interleave(heads // kv_heads, 0)  # [H, K, D]
        target.weight.copy_(per_head.flatten(0, 1))
    time.output.weight.copy_(attention.output.weight)
