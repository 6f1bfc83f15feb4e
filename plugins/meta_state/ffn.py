"""Meta-State (arXiv 2504.08247), a reconstruction: its equations are lost in the text at hand.

S is the matrix of the mixer before it, with that mixer's decay w, removal a and rate b. Per head::

    q   = x W_c                          c numbers the copies; W_1 is the identity
    z   = norm(S q)                      S after the mixer has written this position
    M_c = M_c (diag(w) + a b') + z z'
    y   = sum_c W_o,c norm(M_c q)        W_o = 0 at first

M moves as S does, and is written with what S answers. A copy more is a function of the same value
at first: its W_o is zero, and no norm goes over two of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Positive, Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype, real_positions
from wishbone.kernels.wkv7 import wkv7
from wishbone.plugins.matrix_memory import WKV, Memory, heads_of


@dataclass
class MetaStateConfig:
    """Sizes, and the norms that are ours."""

    head_size: Size = 64
    """Rows and columns of a matrix: those of the mixer whose memory is read."""
    copies: Size = 1
    """C, memories of each head; ``grown`` adds some without changing the function."""
    norms: bool = True
    """True norms what S and M answer, per head; False is the paper's text, where numbers grow as
    the fourth power of S."""
    norm_eps: Positive = 64e-5
    """Added to the mean square of these norms, as in RWKV-7's norm per head."""


class MetaState(Mixer):
    """State: ``meta`` [B, C H, N, N], the copies one after another."""

    Config = MetaStateConfig
    reads = (WKV,)
    memory = ("meta",)
    targets = ("outputs.0",)
    vectors = ("turns",)

    def __init__(self, config: MetaStateConfig, place: Place) -> None:
        super().__init__(config, place)
        self.heads = heads_of(place, config.head_size, "meta_state")
        size, width, copies = config.head_size, place.width, config.copies
        layers = (nn.Linear(width, width, bias=False) for _ in range(copies))
        self.outputs = nn.ModuleList(layers)
        """W_o of each copy: apart, so that those added later can learn alone."""
        turns = (torch.empty(self.heads, size, size) for _ in range(copies - 1))
        self.turns = nn.ParameterList(nn.Parameter(turn) for turn in turns)
        """W_c [H, N, N] of every copy but the first."""
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> MetaStateConfig:
        """Three heads of a small width, two copies."""
        return MetaStateConfig(head_size=16, copies=2)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return zeros."""
        size, count = self.config.head_size, self.config.copies * self.heads
        kind = memory_dtype(dtype)
        return {"meta": torch.zeros(batch, count, size, size, device=device, dtype=kind)}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        memory: Memory = call.shared[WKV]
        self._check(memory)
        mask, copies = real_positions(call.lengths, x), self.config.copies
        query = x.unflatten(-1, (self.heads, -1)).to(memory.k.dtype)  # [B, T, H, N]
        turns = [turn.to(query.dtype) for turn in self.turns]
        turned = [torch.einsum("bthn,hnm->bthm", query, turn) for turn in turns]  # [B, T, H, N]
        query = torch.cat([query, *turned], 2)  # [B, T, C H, N]
        g, k, v, a, b = (z.repeat(1, 1, copies, 1) for z in memory[1:6])  # [B, T, C H, N] each
        before = memory.before.repeat(1, copies, 1, 1)  # [B, C H, N, N]
        z, _ = wkv7(query, g, k, v, a, b, before, mask)  # [B, T, C H, N]
        z = self._normed(z)  # [B, T, C H, N]
        y, after = wkv7(query, g, z, z, a, b, state["meta"], mask)  # [B, T, C H, N]
        parts = self._normed(y).to(x.dtype).flatten(2).chunk(copies, -1)  # [B, T, D] each
        total = torch.zeros_like(x)  # [B, T, D]
        for part, output in zip(parts, self.outputs, strict=True):
            total = total + output(part)  # [B, T, D]
        return total, {"meta": after.contiguous()}

    def operations(self, context: int = 0) -> int:
        """Count a reading of S, then decay, removal, writing and reading of M, for each copy."""
        return 13 * self.config.copies * self.place.width * self.config.head_size

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Add nothing at first; the copies read in directions of their own."""
        for output in self.outputs:
            assert isinstance(output, nn.Linear)
            nn.init.zeros_(output.weight)
        for turn in self.turns:
            if not turn.is_meta:  # has a shape and nothing to fill
                for head in turn:
                    nn.init.orthogonal_(head)

    def _normed(self, y: Tensor) -> Tensor:
        """y [B, T, C H, N] over its root mean square, where norms are asked for."""
        if not self.config.norms:
            return y
        return F.rms_norm(y, y.shape[-1:], eps=self.config.norm_eps)

    def _check(self, memory: Memory) -> None:
        size = self.config.head_size
        if memory.before.shape[1:] != (self.heads, size, size):
            shape = list(memory.before.shape[1:])
            raise ConfigError(
                f"The memory that is read has heads and sizes {shape}, not"
                f" {[self.heads, size, size]}.",
                "the feed-forward part 'meta_state' of the stack",
                f"Write head_size: {shape[2]}, that of the mixer before it.",
            )


@torch.no_grad()
def grown(part: MetaState, copies: int) -> MetaState:
    """Return ``part`` with more copies, ``copies`` in all, that computes the same function.

    Tensors keep their names, so those of the new copies can be trained alone. A state of ``part``
    goes on with zeros behind it.
    """
    larger = MetaState(replace(part.config, copies=copies), part.place)
    larger = larger.to(part.outputs[0].weight)
    larger.load_state_dict(part.state_dict(), strict=False)
    return larger
