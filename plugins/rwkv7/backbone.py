"""RWKV-7 "Goose" (x070): arXiv 2503.14456, and RWKV-LM for what the paper leaves open.

Vectors go in and come out; the tables of text and speech are the layout's and the head's.
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
from wishbone.plugins.rwkv7.init import initialise
from wishbone.plugins.rwkv7.layers import Block, Steps
from wishbone.plugins.rwkv7.shape import Shape
from wishbone.plugins.rwkv7.step import channel_step, time_step

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
            initialise(block, self.shape, i)

    @classmethod
    def small_config(cls) -> Config:
        """For the contract suites: three heads, an odd inner width, more than one block."""
        return cls.Config(width=48, layers=3, head_size=16, ffn_width=112)

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """Zeros. The shifts take ``dtype``, by default the model's."""
        weight = self.norm_in.weight
        device = weight.device if device is None else device
        dtype = weight.dtype if dtype is None else dtype
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        heads, size = self.shape.heads, self.shape.head_size
        state: State = {}
        for i in range(len(self.blocks)):
            wkv = torch.zeros(batch, heads, size, size, device=device, dtype=kind)
            state[f"blocks.{i}.wkv"] = wkv
            for name in ("time_shift", "channel_shift"):
                shift = torch.zeros(batch, self.width, device=device, dtype=dtype)
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
        steps = Steps(mask, x)
        if steps.mask is not None:
            x = x.masked_fill(~steps.mask[..., None], 0)
        after: State = {}
        x, first = _norm(self.norm_in, x), None
        for i, block in enumerate(self.blocks):
            at = f"blocks.{i}."
            branch, first, wkv, shift = block.time_mix(
                _norm(block.norm_time, x), first, state[at + "wkv"], state[at + "time_shift"], steps
            )
            after[at + "wkv"] = wkv
            after[at + "time_shift"] = shift.to(state[at + "time_shift"].dtype)
            x = x + self.drop(branch)
            branch, shift = block.channel_mix(
                _norm(block.norm_channel, x), state[at + "channel_shift"], steps
            )
            after[at + "channel_shift"] = shift.to(state[at + "channel_shift"].dtype)
            x = x + self.drop(branch)
        return _norm(self.norm_out, x), after

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State] | None:
        """Through the engine where it can, else in pieces where memory would grow, else None."""
        engine = self._engine
        many = getattr(engine, "takes_many", None)
        if mask is None and many is not None and many(x, state):
            return engine.prefill(x, state)
        piece = max(128, PIECE // len(x))
        if x.shape[1] <= piece:
            return None
        parts = []
        for start in range(0, x.shape[1], piece):
            here = slice(start, start + piece)
            part = None if mask is None else mask[:, here]
            y, state = self(x[:, here], state, mask=part)
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
        x, first = _norm(self.norm_in, x[:, 0]), None
        for i, block in enumerate(self.blocks):
            at = f"blocks.{i}."
            h = _norm(block.norm_time, x)
            out, first, state[at + "wkv"] = time_step(
                block.time_mix, h, first, state[at + "wkv"], state[at + "time_shift"]
            )
            state[at + "time_shift"] = h.to(state[at + "time_shift"].dtype)
            x = x + self.drop(out)
            h = _norm(block.norm_channel, x)
            x = x + self.drop(channel_step(block.channel_mix, h, state[at + "channel_shift"]))
            state[at + "channel_shift"] = h.to(state[at + "channel_shift"].dtype)
        return _norm(self.norm_out, x)[:, None]

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As in ``Backbone``: "native" is engine.py, "compiled" compiled.py, "graph" graph.py."""
        self._engine, used = choose(self, engine, weights, _ENGINES)
        return used

    def steps_narrow_state(self) -> bool:
        """As in ``Backbone``: the engine knows."""
        return self._engine is not None and self._engine.narrow

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """The same for every ``length``: one matrix per head and two vectors per block."""
        matrices = self.shape.heads * self.shape.head_size**2
        matrix_bytes = 8 if dtype == torch.float64 else 4
        vector_bytes = 2 * self.width * dtype.itemsize
        return len(self.blocks) * (matrix_bytes * matrices + vector_bytes)

    @classmethod
    def count_parameters(cls, config: Config) -> int:
        """From the shape alone; block 0 has no v0, v1, v2."""
        return Shape.of(config).parameters()

    def training_form(self) -> str:
        """The scan's form, and why it is not the Triton kernels where they do not run."""
        missing = triton_missing()
        if self.norm_in.weight.is_cuda and not missing:
            return "WKV-7 in Triton kernels"
        return f"WKV-7 in chunks, PyTorch ({missing or 'not on the GPU'})"

    def shardable(self) -> list[nn.Module]:
        """Both halves of every block: ``forward`` calls these, and never a block as a whole."""
        return [half for block in self.blocks for half in (block.time_mix, block.channel_mix)]

    def mixers(self) -> list[nn.Module]:
        """Time mixing of every block; channel mixing, too, sees one position back."""
        return [block.time_mix for block in self.blocks]

    def flops_per_position(self, context: int = 0) -> int:
        """Matrices once each, and nine operations per number of the WKV state."""
        matrices = sum(p.numel() for n, p in self.named_parameters() if _is_matrix(n, p))
        state = len(self.blocks) * self.shape.heads * self.shape.head_size**2
        return 2 * matrices + 9 * state

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """RWKV-LM's: decay for ``.weight`` matrices alone, twice the rate for ``w0``."""
        fast, decayed, plain = [], [], []
        for name, parameter in self.named_parameters():
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


def _native(backbone: RWKV7, weights: str) -> Engine:
    from wishbone.plugins.rwkv7.engines.native import NativeRWKV7

    return NativeRWKV7(backbone, weights)


def _compiled(backbone: RWKV7, weights: str) -> Engine:
    from wishbone.plugins.rwkv7.engines.compiled import CompiledRWKV7

    return CompiledRWKV7(backbone, weights)


def _graph(backbone: RWKV7, weights: str) -> Engine:
    from wishbone.plugins.rwkv7.engines.cuda_graph import attach

    return attach(backbone, weights)


_ENGINES = {"native": _native, "compiled": _compiled, "graph": _graph}


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith((".mix", ".r_k"))


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm in the type of x, which is never below that of the residual stream."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
