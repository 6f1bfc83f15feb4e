"""Hyena's filters: a small network of sines maps a time to the taps of all channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SLOW, FAST, TARGET = 1.5, 0.3, 1e-2
"""A filter has decayed to ``TARGET`` after these shares of the longest sequence, by channel."""


class LongFilter(nn.Module):
    """Taps h_l of D channels, l from 0 to ``longest`` - 1 (arXiv 2302.10866, section 3.3)."""

    def __init__(self, width: int, inner: int, bands: int, longest: int) -> None:
        super().__init__()
        self.longest, self.bands = longest, bands
        self.layers = nn.ModuleList(
            [nn.Linear(2 * bands + 1, inner), nn.Linear(inner, inner), nn.Linear(inner, inner)]
        )
        self.last = nn.Linear(inner, width, bias=False)
        self.frequency = nn.Parameter(torch.empty(inner))
        """Of the sines, shared by all layers."""
        self._kept: tuple[tuple[int, ...], Tensor] | None = None
        self.reset_parameters()

    def taps(self, length: int, kind: torch.dtype) -> Tensor:
        """Return h [L, D] of ``kind`` for the first L = ``length`` lags, at most ``longest``.

        Without gradients they are computed once for as long as no weight changes.
        """
        length = min(length, self.longest)
        if torch.is_grad_enabled():
            return self._compute(length, kind)
        version = [(p.data_ptr(), p._version) for p in self.parameters()]
        key = hash((str(kind), *version)), self.longest
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._compute(self.longest, kind)
        return self._kept[1][:length]

    def _compute(self, length: int, kind: torch.dtype) -> Tensor:
        """Return h [L, D]."""
        device = self.frequency.device
        lag = torch.arange(length, device=device, dtype=kind)[:, None]  # [L, 1]
        time = lag / max(1, self.longest - 1)  # [L, 1]
        bands = torch.linspace(1e-4, self.bands - 1, self.bands, device=device, dtype=kind)
        angle = 2 * math.pi / self.longest * lag * bands  # [L, bands]
        h = torch.cat([time, angle.cos(), -angle.sin()], -1)  # [L, 2 bands + 1]
        for layer in self.layers:
            weight, bias = (p.to(kind) for p in layer.parameters())
            h = torch.sin(self.frequency.to(kind) * nn.functional.linear(h, weight, bias))
        h = h @ self.last.weight.to(kind).mT  # [L, D]
        edges = math.log(TARGET) / SLOW, math.log(TARGET) / FAST
        rates = torch.linspace(*edges, h.shape[1], device=device, dtype=kind)  # [D]
        return h * torch.exp(rates * time)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as safari does: PyTorch's linear layers, sines of frequency 1."""
        for layer in (*self.layers, self.last):
            layer.reset_parameters()
        nn.init.ones_(self.frequency)
