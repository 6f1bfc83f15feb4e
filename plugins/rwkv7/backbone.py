"""RWKV-7 "Goose" (x070): arXiv 2503.14456, and RWKV-LM for what the paper leaves open.

    x = norm_in(x)
    for every block:                              its equations are in layers.py
        x = x + time_mix(norm_time(x))            reads and writes the state of earlier positions
        x = x + channel_mix(norm_channel(x))      sees one position back
    y = norm_out(x)

Vectors go in and come out; the tables of text and speech are the layout's and the head's.
``forward`` computes many positions, ``step_`` one; engines compute the same step faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.kernels.wkv7 import triton_missing
from wishbone.plugins.engines import Engine, choose
from wishbone.plugins.rwkv7.engines.cuda_graph import attach
from wishbone.plugins.rwkv7.engines.native import NativeRWKV7
from wishbone.plugins.rwkv7.layers import Block, Shape, TokenShift

ENGINES = {"native": NativeRWKV7, "graph": attach}
"""Ways to compute a step faster than plain PyTorch: in C++, and as a CUDA graph."""
PIECE = 4096
"""Positions of all sequences together that go through the blocks at once without gradient: the
memory a long text needs does not grow with it, and the state it leaves is the same."""


class RWKV7(Backbone):
    """A stack of RWKV-7 blocks with a state of constant size.

    x [B, T, D] -> norm_in -> blocks -> norm_out. Under autocast the matrix products run in the
    autocast type; norms, decay, the WKV state and the residual stream stay in float32.

    State, per block i: ``blocks.i.wkv`` [B, H, V, K] float32, rows are values as in RWKV-LM;
    ``blocks.i.time_shift`` and ``blocks.i.channel_shift`` [B, D], the last normed vectors.
    """

    caps = Caps(
        streaming=True,
        constant_state=True,
        varlen=True,
        peft_targets=("receptance", "key", "value", "output"),
    )

    @dataclass
    class Config:
        """Shape of an RWKV-7."""

        width: int = 512
        """D, a multiple of head_size."""
        layers: int = 12
        """Number of blocks."""
        head_size: int = 64
        """K and V of one head."""
        ffn_width: int = 0
        """Inner width of channel mixing; 0 means 4 * width."""
        decay_rank: int = 0
        """Rank of the decay's low-rank product; 0 means RWKV-LM's rule for this width."""
        rate_rank: int = 0
        """Rank for a, the in-context learning rate; 0 means the rule."""
        value_rank: int = 0
        """Rank for the share of the first block's value; 0 means the rule."""
        gate_rank: int = 0
        """Rank for the output gate; 0 means the rule."""
        group_norm_eps: float = 64e-5
        """Of the norm after WKV: RWKV-LM uses this for every head size, fla head_size * 1e-5."""
        dropout: float = 0.0
        """Share of each branch's output dropped in training; RWKV-LM itself uses none."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.shape = Shape.of(config)
        self.width = config.width
        self.norm_in = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(Block(self.shape, i) for i in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)
        self._engine: Engine | None = None
        for i, block in enumerate(self.blocks):
            block.time_mix.reset_parameters(self.shape, i)
            block.channel_mix.reset_parameters(self.shape, i)

    @classmethod
    def small_config(cls) -> Config:
        """For the contract suites: three heads, an odd inner width, more than one block."""
        return cls.Config(width=48, layers=3, head_size=16, ffn_width=112)

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """Return zeros. The shifts take ``dtype``, by default the model's."""
        weight = self.norm_in.weight
        device = weight.device if device is None else device
        dtype = weight.dtype if dtype is None else dtype
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        heads, size = self.shape.heads, self.shape.head_size
        state: State = {}
        for i in range(len(self.blocks)):
            wkv = torch.zeros(batch, heads, size, size, device=device, dtype=kind)  # [B, H, V, K]
            state[f"blocks.{i}.wkv"] = wkv
            for name in ("time_shift", "channel_shift"):
                shift = torch.zeros(batch, self.width, device=device, dtype=dtype)  # [B, D]
                state[f"blocks.{i}.{name}"] = shift
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state. Outputs at masked positions mean nothing."""
        state = self.init_state(len(x), device=x.device) if state is None else state
        if not x.shape[1]:
            return x, dict(state)
        if not torch.is_grad_enabled() and not self.training:
            fast = self._prefill(x, state, mask)
            if fast is not None:
                return fast
        order = TokenShift(mask, x)
        if order.mask is not None:
            x = x.masked_fill(~order.mask[..., None], 0)  # [B, T, D]
        after: State = {}
        x, v_first = _norm(self.norm_in, x), None  # [B, T, D]
        for i, block in enumerate(self.blocks):
            wkv, time, channel = _names(i)
            h = _norm(block.norm_time, x)  # [B, T, D]
            out, v_first, after[wkv], shift = block.time_mix(
                h, v_first, state[wkv], state[time], order
            )  # [B, T, D], [B, T, D], [B, H, V, K], [B, D]
            after[time] = shift.to(state[time].dtype)  # [B, D]
            x = x + self.drop(out)  # [B, T, D]
            h = _norm(block.norm_channel, x)  # [B, T, D]
            out, shift = block.channel_mix(h, state[channel], order)  # [B, T, D], [B, D]
            after[channel] = shift.to(state[channel].dtype)  # [B, D]
            x = x + self.drop(out)  # [B, T, D]
        return _norm(self.norm_out, x), after

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State] | None:
        """Compute by the engine or, where memory would grow, in pieces; return None elsewhere."""
        engine = self._engine
        many = getattr(engine, "takes_many", None)
        if mask is None and many is not None and many(x, state):
            return engine.prefill(x, state)
        piece = max(128, PIECE // len(x))
        if x.shape[1] <= piece:
            return None
        parts = []
        for start in range(0, x.shape[1], piece):
            positions = slice(start, start + piece)
            part = None if mask is None else mask[:, positions]  # [B, P]
            y, state = self(x[:, positions], state, mask=part)  # [B, P, D]
            parts.append(y)
        return torch.cat(parts, 1), state

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> Tensor:
        """As in ``Backbone``, without gradient; plain steps put new tensors into ``state``."""
        engine = self._engine
        if engine is not None and not self.training and engine.takes(x, state):
            return engine.step_(x, state)
        if torch.is_autocast_enabled(x.device.type):
            return super().step_(x, state)
        x, v_first = _norm(self.norm_in, x[:, 0]), None  # [B, D]
        for i, block in enumerate(self.blocks):
            wkv, time, channel = _names(i)
            h = _norm(block.norm_time, x)  # [B, D]
            out, v_first, state[wkv] = block.time_mix.step(h, v_first, state[wkv], state[time])
            state[time] = h.to(state[time].dtype)  # [B, D]
            x = x + self.drop(out)  # [B, D]
            h = _norm(block.norm_channel, x)  # [B, D]
            x = x + self.drop(block.channel_mix.step(h, state[channel]))  # [B, D]
            state[channel] = h.to(state[channel].dtype)  # [B, D]
        return _norm(self.norm_out, x)[:, None]

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As in ``Backbone``; ``ENGINES`` are the names beside "auto" and "eager"."""
        self._engine, used = choose(self, engine, weights, ENGINES)
        return used

    def steps_narrow_state(self) -> bool:
        """As in ``Backbone``: an attribute of the engine."""
        return self._engine is not None and self._engine.narrow

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Count one matrix per head and two vectors per block; the same for every ``length``."""
        matrices = self.shape.heads * self.shape.head_size**2
        matrix_bytes = 8 if dtype == torch.float64 else 4
        vector_bytes = 2 * self.width * dtype.itemsize
        return len(self.blocks) * (matrix_bytes * matrices + vector_bytes)

    @classmethod
    def count_parameters(cls, config: Config) -> int:
        """Count from the shape alone; block 0 has no v0, v1, v2."""
        return Shape.of(config).parameters()

    def training_form(self) -> str:
        """Name the scan's form, and why it is not the Triton kernels where they do not run."""
        return scan_form(self.norm_in.weight)

    def shardable(self) -> list[nn.Module]:
        """Both halves of every block: ``forward`` calls these, and never a block as a whole."""
        return [half for block in self.blocks for half in (block.time_mix, block.channel_mix)]

    def mixers(self) -> list[nn.Module]:
        """Time mixing of every block; channel mixing, too, sees one position back."""
        return [block.time_mix for block in self.blocks]

    def flops_per_position(self, context: int = 0) -> int:
        """Count every matrix once, and nine operations per number of the WKV state."""
        return flops_per_position(self, self.shape)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """RWKV-LM's: decay for ``.weight`` matrices alone, twice the rate for ``w0``."""
        return parameter_groups(self, learning_rate, weight_decay)


def scan_form(weight: Tensor) -> str:
    """Name the form of WKV-7 that trains on the device of ``weight``, and the reason for it."""
    missing = triton_missing()
    if weight.is_cuda and not missing:
        return "WKV-7 in Triton kernels"
    return f"WKV-7 in chunks, PyTorch ({missing or 'not on the GPU'})"


def flops_per_position(backbone: nn.Module, shape: Shape) -> int:
    """Count two operations per number of every matrix, and nine per number of the WKV state."""
    matrices = sum(
        parameter.numel()
        for name, parameter in backbone.named_parameters()
        if parameter.ndim > 1 and not name.endswith((".mix", ".r_k"))
    )
    state = shape.layers * shape.heads * shape.head_size**2
    return 2 * matrices + 9 * state


def parameter_groups(
    backbone: nn.Module, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """RWKV-LM's groups for AdamW: decay for ``.weight`` matrices, twice the rate for ``w0``."""
    fast, decayed, plain = [], [], []
    for name, parameter in backbone.named_parameters():
        if name.endswith(".w0"):
            fast.append(parameter)
        elif parameter.ndim > 1 and name.endswith(".weight"):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    return [
        {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": plain, "lr": learning_rate, "weight_decay": 0.0},
        {"params": fast, "lr": 2 * learning_rate, "weight_decay": 0.0},
    ]


def _names(i: int) -> tuple[str, str, str]:
    """Names of the state of block i: WKV, and the two token shifts."""
    return f"blocks.{i}.wkv", f"blocks.{i}.time_shift", f"blocks.{i}.channel_shift"


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm in the type of x, which is never below that of the residual stream."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
