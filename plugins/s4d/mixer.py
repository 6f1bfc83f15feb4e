"""S4D (arXiv 2206.11893): a linear filter of every channel, as N/2 complex modes that decay.

    s_t = e^{dt A} s_{t-1} + u_t        K_l = 2 Re sum_n C_n (e^{dt A_n} - 1) / A_n e^{l dt A_n}
    y = GLU(W gelu(K * u + skip u))     A = -e^{a} + i w, one dt a channel

A piece of L positions is a product with the Toeplitz matrix of K; from piece to piece the modes go
on. An FFT would let later positions touch the last bits of earlier ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Range
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype

PIECE = 64
"""L, positions in one product."""


@dataclass
class S4DConfig:
    """Size of the state."""

    state: Annotated[int, Range(2, 2**16)] = 64
    """Real numbers N of a channel; every two are one complex mode."""


class S4D(Mixer):
    """One filter a channel; channels mix in the projection behind it."""

    Config = S4DConfig
    memory = ("modes",)
    targets = ("output",)
    vectors = ("c", "a_log", "frequency")

    def __init__(self, config: S4DConfig, place: Place) -> None:
        super().__init__(config, place)
        width, modes = place.width, config.state // 2
        self.c = nn.Parameter(torch.empty(width, modes, 2))
        """Real and imaginary part of C."""
        self.a_log = nn.Parameter(torch.empty(width, modes))
        self.frequency = nn.Parameter(torch.empty(width, modes))
        self.dt_log = nn.Parameter(torch.empty(width))
        self.skip = nn.Parameter(torch.empty(width))
        self.output = nn.Linear(width, 2 * width)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> S4DConfig:
        """Few modes."""
        return S4DConfig(state=8)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Modes [B, D, N/2, 2] of zeros, real and imaginary part."""
        shape = batch, *self.c.shape
        return {"modes": torch.zeros(shape, device=device, dtype=memory_dtype(dtype))}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        start = state["modes"]  # [B, D, N/2, 2]
        u = x.to(start.dtype)  # [B, T, D]
        # A copy: memory that a file was mapped to need not be aligned as complex numbers want it.
        y, modes = self.filter(u, torch.complex(*start.unbind(-1)), call.lengths)  # [B, T, D]
        y = F.gelu(y + self.skip.to(u.dtype) * u).to(x.dtype)  # [B, T, D]
        return F.glu(self.output(y), -1), {"modes": torch.view_as_real(modes).contiguous()}

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D] and the state: the recurrence itself."""
        before = state["modes"]  # [B, D, N/2, 2]
        u = x.to(before.dtype)  # [B, D]
        powers, c = self._powers(1, u.dtype)  # [D, M, 2], [D, M]
        modes = torch.complex(*before.unbind(-1)) * powers[..., 1] + u[..., None]  # [B, D, M]
        y = 2 * (c * modes).sum(-1).real  # [B, D]
        y = F.gelu(y + self.skip.to(u.dtype) * u).to(x.dtype)  # [B, D]
        return F.glu(self.output(y), -1), {"modes": torch.view_as_real(modes).contiguous()}

    def filter(self, u: Tensor, modes: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """u [B, T, D], modes [B, D, M], lengths [B] -> K * u [B, T, D] and the modes after."""
        batch, length, width = u.shape
        piece = min(PIECE, length)
        powers, c = self._powers(piece, u.dtype)  # [D, M, L + 1], [D, M]
        kernel = 2 * (c[..., None] * powers[..., :-1]).sum(1).real  # [D, L]
        at = torch.arange(piece, device=u.device)
        lag = at[:, None] - at  # [L, L]
        toeplitz = torch.where(lag >= 0, kernel[:, lag.clamp_min(0)], 0)  # [D, L, L]
        pieces = F.pad(u, (0, 0, 0, -length % piece)).unflatten(1, (-1, piece))  # [B, P, L, D]
        columns = pieces.permute(3, 2, 1, 0).flatten(2)  # [D, L, P B]
        inside = (toeplitz @ columns).unflatten(2, (-1, batch))  # [D, L, P, B]
        # Real and imaginary parts side by side: a product of complex numbers would be four.
        written = _parts(powers[..., :-1].flip(2)) @ columns  # [D, 2 M, P B]
        written = torch.complex(*written.chunk(2, 1))  # [D, M, P B]
        starts = [modes]
        for added in written.unflatten(2, (-1, batch)).permute(2, 3, 0, 1).unbind(0):
            starts.append(torch.addcmul(added, powers[..., -1], starts[-1]))  # [B, D, M]
        before = torch.stack(starts[:-1])  # [P, B, D, M]
        rows = before.permute(2, 3, 0, 1).flatten(2)  # [D, M, P B]
        reading = 2 * (c[..., None] * powers[..., 1:]).conj()  # [D, M, L]
        carried = _parts(reading).mT @ _parts(rows)  # [D, L, P B]
        y = inside + carried.unflatten(2, (-1, batch))  # [D, L, P, B]
        y = y.permute(3, 2, 1, 0).reshape(batch, -1, width)[:, :length]  # [B, T, D]
        return y, _at_end(u, torch.stack(starts), powers, lengths)

    def _powers(self, piece: int, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return e^{l dt A}, l = 0 ... L [D, M, L + 1], and C (e^{dt A} - 1) / A [D, M]."""
        dt = self.dt_log.to(kind).exp()[:, None]  # [D, 1]
        a = torch.complex(-self.a_log.to(kind).exp(), self.frequency.to(kind))  # [D, M]
        step = torch.arange(piece + 1, device=dt.device, dtype=kind)  # [L + 1]
        powers = torch.exp((dt * a)[..., None] * step)  # [D, M, L + 1]
        return powers, torch.view_as_complex(self.c.to(kind)) * (powers[..., 1] - 1) / a

    def operations(self, context: int = 0) -> int:
        """Count a complex product to decay and one to read, for every mode."""
        return 16 * self.a_log.numel()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as S4D-Lin does: A_n = -1/2 + i pi n, dt from 0.001 to 0.1, C and skip normal."""
        width, modes = self.a_log.shape
        nn.init.normal_(self.c, std=0.5**0.5)
        nn.init.constant_(self.a_log, math.log(0.5))
        self.frequency.copy_(math.pi * torch.arange(modes).expand(width, -1))
        nn.init.uniform_(self.dt_log, math.log(1e-3), math.log(1e-1))
        nn.init.normal_(self.skip)
        self.output.reset_parameters()


def _parts(x: Tensor) -> Tensor:
    """Complex x [D, M, ...] -> [D, 2 M, ...], real parts, then imaginary ones."""
    return torch.cat([x.real, x.imag], 1)


def _at_end(u: Tensor, starts: Tensor, powers: Tensor, lengths: Tensor | None) -> Tensor:
    """u [B, T, D], starts [P + 1, B, D, M], powers [D, M, L + 1] -> modes [B, D, M] at the end.

    ``starts`` are the modes before each piece. A row ends inside one: its first positions, moved to
    the end of the piece, meet the powers that a whole piece does.
    """
    batch, length, width = u.shape
    piece = powers.shape[2] - 1
    if lengths is None:
        lengths = torch.full((batch,), length, device=u.device)  # [B]
    number = lengths // piece  # [B]
    beyond = lengths - number * piece  # [B]
    at = torch.arange(piece, device=u.device) - piece + lengths[:, None]  # [B, L]
    inside = (at >= (number * piece)[:, None])[..., None]  # [B, L, 1]
    index = at.clamp_min(0)[..., None].expand(-1, -1, width)  # [B, L, D]
    end = torch.where(inside, u.gather(1, index), 0).to(powers.dtype)  # [B, L, D]
    added = torch.einsum("bld,dml->bdm", end, powers[..., :-1].flip(2))  # [B, D, M]
    rows = torch.arange(batch, device=u.device)  # [B]
    return starts[number, rows] * powers[..., beyond].permute(2, 0, 1) + added  # [B, D, M]
