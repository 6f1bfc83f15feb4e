"""Hyena of order 2 (arXiv 2302.10866, definition 3.1): a gate, a long convolution, a gate.

    q, k, v = convolution_3(W_in x)        u = k v        y = W_out (q (h * u + skip u))

Every position reaches back to the first: the state is u of all positions, and a step costs more the
later it is. The taps h are those of ``filter.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import extended, last_inputs, memory_dtype
from wishbone.kernels.convolution import causal_convolution
from wishbone.plugins.hyena.filter import LongFilter

SHORT = 3
"""Positions that the convolution before the gates sees."""


@dataclass
class HyenaConfig:
    """Filters."""

    longest: Size = 4096
    """Lags a filter has; what lies further back is not visible."""
    inner: Size = 64
    """Width of the network that writes the filters."""
    bands: Size = 1
    """Waves that it sees the time as."""


class Hyena(Mixer):
    """No constant state, and no bit-exact past: the FFT of a sequence mixes all of its rounding."""

    Config = HyenaConfig
    positions = True
    constant = False
    exact = False
    memory = ("history",)
    targets = ("in_proj", "out_proj")
    vectors = ("convolution",)

    def __init__(self, config: HyenaConfig, place: Place) -> None:
        super().__init__(config, place)
        width = place.width
        self.in_proj = nn.Linear(width, 3 * width)
        self.convolution = nn.Parameter(torch.empty(3 * width, SHORT))
        self.convolution_bias = nn.Parameter(torch.empty(3 * width))
        self.filter = LongFilter(width, config.inner, config.bands, config.longest)
        self.skip = nn.Parameter(torch.empty(width))
        self.out_proj = nn.Linear(width, width)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> HyenaConfig:
        """Short filters of a small network."""
        return HyenaConfig(longest=256, inner=8)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """No position yet."""
        width = self.place.width
        shape = batch, SHORT - 1, 3 * width
        return {
            "history": torch.zeros(batch, 0, width, device=device, dtype=memory_dtype(dtype)),
            "conv": torch.zeros(shape, device=device, dtype=dtype),
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the longer history."""
        joined, conv = last_inputs(state["conv"], self.in_proj(x), call.lengths)
        taps = self.convolution.to(joined.dtype), self.convolution_bias.to(joined.dtype)
        q, k, v = causal_convolution(joined, *taps).chunk(3, -1)  # [B, T, D] each
        u = (k * v).to(state["history"].dtype)  # [B, T, D]
        assert call.start is not None
        full, history = extended(state["history"], u, call.start, call.lengths)  # [B, S, D]
        h = self.filter.taps(full.shape[1], u.dtype)  # [L, D]
        y = long_convolution(full, h, call.start, x.shape[1]) + self.skip.to(u.dtype) * u
        return self.out_proj(q * y.to(q.dtype)), {"history": history, "conv": conv}

    def growth(self) -> Mapping[str, int]:
        """A number for every channel."""
        return {"history": self.place.width}

    def operations(self, context: int = 0) -> int:
        """Count two for every position that came before, in every channel."""
        return self.place.width * (2 * context + 6 * SHORT)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as safari does: PyTorch's layers, a normal skip."""
        for layer in (self.in_proj, self.filter, self.out_proj):
            layer.reset_parameters()
        nn.init.uniform_(self.convolution, -(SHORT**-0.5), SHORT**-0.5)
        nn.init.uniform_(self.convolution_bias, -(SHORT**-0.5), SHORT**-0.5)
        nn.init.normal_(self.skip)


def long_convolution(full: Tensor, h: Tensor, start: Tensor, length: int) -> Tensor:
    """full [B, S, D], taps h [L, D], start [B] -> the last positions of h * full [B, T, D].

    Row b's T = ``length`` positions begin at start[b].
    """
    batch, total, width = full.shape
    if length == 1:
        lag = start[:, None] - torch.arange(total, device=full.device)  # [B, S]
        visible = ((lag >= 0) & (lag < len(h)))[..., None]  # [B, S, 1]
        weights = torch.where(visible, h[lag.clamp(0, len(h) - 1)], 0)  # [B, S, D]
        return (weights * full).sum(1, keepdim=True)  # [B, 1, D]
    size = total + len(h)
    spectrum = torch.fft.rfft(full, size, 1) * torch.fft.rfft(h, size, 0)  # [B, F, D]
    y = torch.fft.irfft(spectrum, size, 1)  # [B, S + L, D]
    at = start[:, None] + torch.arange(length, device=full.device)  # [B, T]
    return y.gather(1, at[..., None].expand(-1, -1, width))  # [B, T, D]
