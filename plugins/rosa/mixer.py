"""ROSA, with symbols of one bit or several (RWKV-8 "Heron"; RWKV-LM, RWKV-v8,
260212_rosa1bitLM_L12.py and 260222_rosa4bitLM_L12.py).

    x_z = x + (x' - x) m_z                    z in q, k, v; x' the position before
    q, k, v = (W_z x_z + b_z > 0)             bits; n neighbouring channels are a symbol
    a_t = v_{j+1}                             j < t: where k ends in the longest suffix of q
    y = W_o (e (2 a - 1)) + b_o               without a match e (2 a - 1) is -e for n = 1, else 0

Bits have no gradient. ``straight_through`` gives v that of tanh in place of the step, and leaves
q and k as they were drawn, random features of the past; RWKV-8's own training is not published as
an equation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Range
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import extended, last_inputs
from wishbone.plugins.rosa.match import next_match


@dataclass
class RosaConfig:
    """Symbols and gradients."""

    bits: Annotated[int, Range(1, 8)] = 1
    """n, neighbouring channels that are one symbol, matched as a whole; the demos have 1 and 4."""

    straight_through: bool = True
    """True lets v learn as if its bits were the tanh of what they are rounded from."""


class Rosa(Mixer):
    """Exact retrieval. State: bits of v [B, S, D], symbols of k and lengths of matches
    [B, S, D / n].
    """

    Config = RosaConfig
    positions = True
    constant = False
    differentiable = False
    targets = ("query", "key", "value", "output")
    vectors = ("mix",)

    def __init__(self, config: RosaConfig, place: Place) -> None:
        super().__init__(config, place)
        width = place.width
        if width % config.bits:
            raise ConfigError(
                f"{width} channels make no symbols of {config.bits} bits.",
                "the mixer 'rosa' of the stack",
                "Make the width a multiple of bits.",
            )
        self.symbols = width // config.bits
        """D / n."""
        self.missed = -1.0 if config.bits == 1 else 0.0
        """2 a - 1 without a match, as each demo has it."""
        self.mix = nn.Parameter(torch.empty(3, width))
        """Share of the position before in q, k, v: RWKV-LM's x_q, x_k, x_v."""
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.amplitude = nn.Parameter(torch.empty(width))
        """e."""
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> RosaConfig:
        """True gradients, which differences confirm: those of ``amplitude`` and ``output``."""
        return RosaConfig(straight_through=False)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """No position yet, and zeros before the first."""
        width = self.place.width
        parts = (
            ("keys", self.symbols, torch.uint8), ("values", width, torch.uint8),
            ("matches", self.symbols, torch.int32),
        )  # fmt: skip
        state = {n: torch.zeros(batch, 0, c, device=device, dtype=kind) for n, c, kind in parts}
        return state | {"rosa_shift": torch.zeros(batch, width, device=device, dtype=dtype)}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the longer history."""
        assert call.start is not None
        joined, shift = last_inputs(state["rosa_shift"][:, None], x, call.lengths)
        before = joined[:, :-1]  # [B, T, D]
        x_q, x_k, x_v = (torch.lerp(x, before, mix.to(x.dtype)) for mix in self.mix)  # [B, T, D]
        q, k = self._symbols(self.query(x_q)), self._symbols(self.key(x_k))  # [B, T, D / n]
        v = self.value(x_v)  # [B, T, D]
        start, length = call.start, x.shape[1]
        keys, next_keys = extended(state["keys"], k, start, call.lengths)  # [B, S, D / n]
        values, next_values = extended(state["values"], v > 0, start, call.lengths)  # [B, S, D]
        before_all = int(start.max())
        soft, _ = extended(values.to(v.dtype)[:, :before_all], _soft(v), start, None)  # [B, S, D]
        match = state["matches"][:, :before_all]  # [B, S, D / n]
        count = torch.full_like(start, length) if call.lengths is None else call.lengths  # [B]
        latest, answers = match, []
        for t in range(length):
            earlier = before_all + t
            if not earlier:
                answers.append(torch.full_like(v[:, 0], self.missed))
                continue
            best = next_match(match, q[:, t], keys[:, :earlier], start, t)
            match, source, hit = best[0], *map(self._channels, best[1:])  # [B, S, D / n], [B, D]
            picked = soft.gather(1, source[:, None])[:, 0]  # [B, D]
            answers.append(torch.where(hit, 2 * picked - 1, self.missed))
            aligned = F.pad(latest, (0, 0, 0, earlier - latest.shape[1]))  # [B, S, D / n]
            real = (count > t)[:, None, None]  # [B, 1, 1]
            latest = match if call.lengths is None else torch.where(real, match, aligned)
        a = torch.stack(answers, 1)  # [B, T, D]
        if not self.config.straight_through:
            a = a.detach()  # [B, T, D]
        y = self.output(self.amplitude.to(a.dtype) * a)  # [B, T, D]
        return y, {
            "keys": next_keys,
            "values": next_values,
            "matches": _cut(latest, start + count, next_keys.shape[1]),
            "rosa_shift": shift[:, 0],
        }

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D] and the longer history; the answer stays a bit until it is read."""
        assert call.start is not None
        before = state["rosa_shift"].to(x.dtype)  # [B, D]
        x_q, x_k, x_v = (torch.lerp(x, before, mix.to(x.dtype)) for mix in self.mix)  # [B, D]
        q, k = self._symbols(self.query(x_q)), self._symbols(self.key(x_k))  # [B, D / n]
        v = self.value(x_v) > 0  # [B, D]
        start = call.start
        keys, next_keys = extended(state["keys"], k[:, None], start, None)  # [B, S + 1, D / n]
        values, next_values = extended(state["values"], v[:, None], start, None)  # [B, S + 1, D]
        earlier = keys.shape[1] - 1
        match = state["matches"][:, :earlier]  # [B, S, D / n]
        a = torch.full_like(x, self.missed)  # [B, D]
        if earlier:
            best = next_match(match, q, keys[:, :earlier], start, 0)
            match, source, hit = best[0], *map(self._channels, best[1:])  # [B, S, D / n], [B, D]
            answer = values.gather(1, source[:, None])[:, 0]  # [B, D]
            a = torch.where(hit, 2 * answer.to(x.dtype) - 1, self.missed)  # [B, D]
        y = self.output(self.amplitude.to(x.dtype) * a)  # [B, D]
        return y, {
            "keys": next_keys,
            "values": next_values,
            "matches": _cut(match, start + 1, next_keys.shape[1]),
            "rosa_shift": x.to(state["rosa_shift"].dtype),
        }

    def growth(self) -> Mapping[str, int]:
        """A symbol of k and the length of a match for n channels, a bit of v for each."""
        return {"keys": self.symbols, "values": self.place.width, "matches": self.symbols}

    def operations(self, context: int = 0) -> int:
        """Count the comparison with every position that came before."""
        return 6 * self.symbols * (context + 1)

    def _symbols(self, z: Tensor) -> Tensor:
        """z [..., D] -> uint8 [..., D / n], the first channel of n as the lowest bit."""
        places = 2 ** torch.arange(self.config.bits, device=z.device)  # [n]
        return ((z > 0).unflatten(-1, (-1, self.config.bits)) * places).sum(-1).to(torch.uint8)

    def _channels(self, z: Tensor) -> Tensor:
        """z [B, D / n] -> [B, D]: what a symbol has, for each of its channels."""
        return z if self.config.bits == 1 else z.repeat_interleave(self.config.bits, -1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the published layer does: no shift, amplitude 1, PyTorch's linear layers."""
        nn.init.zeros_(self.mix)
        nn.init.ones_(self.amplitude)
        for linear in (self.query, self.key, self.value, self.output):
            linear.reset_parameters()


def _soft(v: Tensor) -> Tensor:
    """v [B, T, D] -> its bits, with the gradient of (1 + tanh v) / 2."""
    smooth = (1 + torch.tanh(v)) / 2  # [B, T, D]
    return (v > 0).to(v.dtype) + smooth - smooth.detach()


def _cut(matches: Tensor, ends: Tensor, slots: int) -> Tensor:
    """matches [B, S', D], ends [B] -> [B, S, D] of ``slots``, zeros behind the end of each row."""
    matches = F.pad(matches, (0, 0, 0, max(0, slots - matches.shape[1])))  # [B, S'', D]
    real = torch.arange(slots, device=matches.device) < ends[:, None]  # [B, S]
    return torch.where(real[..., None], matches[:, :slots], 0)  # [B, S, D]
