"""ROSA, one bit a channel (RWKV-8 "Heron"; RWKV-LM, RWKV-v8/260212_rosa1bitLM_L12.py).

    x_z = x + (x' - x) m_z                    z in q, k, v; x' the position before
    q, k, v = (W_z x_z + b_z > 0)             bits
    a_t = v_{j+1}                             j < t: where k ends in the longest suffix of q; else 0
    y = W_o (e (2 a - 1)) + b_o

Bits have no gradient. ``straight_through`` gives v that of tanh in place of the step, and leaves
q and k as they were drawn, random features of the past; RWKV-8's own training is not published as
an equation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import extended, last_inputs
from wishbone.plugins.rosa.match import next_match


@dataclass
class RosaConfig:
    """Gradients."""

    straight_through: bool = True
    """True lets v learn as if its bits were the tanh of what they are rounded from."""


class Rosa(Mixer):
    """Exact retrieval. State: bits of k and v, and the lengths of all matches [B, S, D]."""

    Config = RosaConfig
    positions = True
    constant = False
    differentiable = False
    targets = ("query", "key", "value", "output")
    vectors = ("mix",)

    def __init__(self, config: RosaConfig, place: Place) -> None:
        super().__init__(config, place)
        width = place.width
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
        kinds = {"keys": torch.uint8, "values": torch.uint8, "matches": torch.int32}
        state = {n: torch.zeros(batch, 0, width, device=device, dtype=k) for n, k in kinds.items()}
        return state | {"rosa_shift": torch.zeros(batch, width, device=device, dtype=dtype)}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the longer history."""
        assert call.start is not None
        joined, shift = last_inputs(state["rosa_shift"][:, None], x, call.lengths)
        before = joined[:, :-1]  # [B, T, D]
        x_q, x_k, x_v = (torch.lerp(x, before, mix.to(x.dtype)) for mix in self.mix)  # [B, T, D]
        q, k = self.query(x_q) > 0, self.key(x_k) > 0  # [B, T, D]
        v = self.value(x_v)  # [B, T, D]
        start, length = call.start, x.shape[1]
        keys, next_keys = extended(state["keys"], k, start, call.lengths)  # [B, S, D]
        values, next_values = extended(state["values"], v > 0, start, call.lengths)  # [B, S, D]
        before_all = int(start.max())
        soft, _ = extended(values.to(v.dtype)[:, :before_all], _soft(v), start, None)  # [B, S, D]
        match = state["matches"][:, :before_all]  # [B, S, D]
        count = torch.full_like(start, length) if call.lengths is None else call.lengths  # [B]
        latest, answers = match, []
        for t in range(length):
            earlier = before_all + t
            if not earlier:
                answers.append(torch.zeros_like(v[:, 0]))
                continue
            now = q[:, t].to(keys.dtype)  # [B, D]
            match, source, hit = next_match(match, now, keys[:, :earlier], start, t)
            picked = soft.gather(1, source[:, None])[:, 0]  # [B, D]
            answers.append(torch.where(hit, picked, 0))
            aligned = F.pad(latest, (0, 0, 0, earlier - latest.shape[1]))  # [B, S, D]
            real = (count > t)[:, None, None]  # [B, 1, 1]
            latest = match if call.lengths is None else torch.where(real, match, aligned)
        a = torch.stack(answers, 1)  # [B, T, D]
        if not self.config.straight_through:
            a = a.detach()  # [B, T, D]
        y = self.output(self.amplitude.to(a.dtype) * (2 * a - 1))  # [B, T, D]
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
        q, k, v = self.query(x_q) > 0, self.key(x_k) > 0, self.value(x_v) > 0  # [B, D]
        start = call.start
        keys, next_keys = extended(state["keys"], k[:, None], start, None)  # [B, S + 1, D]
        values, next_values = extended(state["values"], v[:, None], start, None)  # [B, S + 1, D]
        earlier = keys.shape[1] - 1
        match, answer = state["matches"][:, :earlier], torch.zeros_like(values[:, 0])  # [B, D]
        if earlier:
            now = q.to(keys.dtype)  # [B, D]
            match, source, hit = next_match(match, now, keys[:, :earlier], start, 0)
            answer = torch.where(hit, values.gather(1, source[:, None])[:, 0], 0)  # [B, D]
        y = self.output(self.amplitude.to(x.dtype) * (2 * answer.to(x.dtype) - 1))  # [B, D]
        return y, {
            "keys": next_keys,
            "values": next_values,
            "matches": _cut(match, start + 1, next_keys.shape[1]),
            "rosa_shift": x.to(state["rosa_shift"].dtype),
        }

    def growth(self) -> Mapping[str, int]:
        """A bit of k, one of v, and the length of a match in every channel."""
        return dict.fromkeys(("keys", "values", "matches"), self.place.width)

    def operations(self, context: int = 0) -> int:
        """Count the comparison with every position that came before."""
        return 6 * self.place.width * (context + 1)

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
