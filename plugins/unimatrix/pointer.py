"""UniMatrix-SparsePointer (arXiv 2604.25930): what followed where a position like this one stood.

The last M pairs of neighbours (s - 1, s) whose second is speech are slots. With unit vectors::

    q_s  = W_l x_s / |W_l x_s|                         keys and queries alike
    a_ts = softmax over the k best of e^tau q_t . q_{s-1}          t - M <= s < t
    y_t  = sigmoid(W_a x_t + b_a) * sum_s a_ts x_s
    p_t  = sigmoid(u . x_t + b)                        the share of the pointer
    pointer at t: the ids of s, with weights p_t a_ts

The head ``pointer`` puts the weights where the ids are; no more than k numbers a position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OptionalSize, Size
from wishbone.core.contract.stack.mixer import POINTER, Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs
from wishbone.plugins.matrix_memory import start_normal

NOTHING, OTHER = -2, -1
"""In the place of an id: before the first position; a position that is not speech."""
ROWS = 64
"""Positions whose scores are made at once, at least."""
SHARPNESS = 8.0
"""First e^tau, the reference code's factor."""
RARELY = -4.0
"""First b: the pointer begins with two percent."""


@dataclass
class SparsePointerConfig:
    """Slots, and how many of them are used."""

    slots: Size = 32
    """M, positions that can be pointed at."""
    chosen: Size = 4
    """k, slots that a position points at."""
    size: OptionalSize = 0
    """Numbers of a key; 0 means the width."""


class SparsePointer(Mixer):
    """State: ``pointer_keys`` [B, M + 1, E], ``pointer_values`` [B, M + 1, D], ``pointer_ids``
    [B, M + 1, 1], of the last positions; of several codebooks the first.
    """

    Config = SparsePointerConfig
    ids = True
    targets = ("look", "gate")

    def __init__(self, config: SparsePointerConfig, place: Place) -> None:
        super().__init__(config, place)
        if config.chosen > config.slots:
            raise ConfigError(
                f"A position cannot point at {config.chosen} of {config.slots} slots.",
                "the mixer 'sparse_pointer' of the stack",
                "Make chosen smaller, or slots larger.",
            )
        self.points = config.chosen
        self.size = config.size or place.width
        self.look = nn.Linear(place.width, self.size, bias=False)
        self.gate = nn.Linear(place.width, place.width)
        self.share = nn.Linear(place.width, 1)
        self.tau = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> SparsePointerConfig:
        """Slots that are full after a few positions."""
        return SparsePointerConfig(slots=6, chosen=2, size=16)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """No position yet."""
        slots, width = self.config.slots + 1, self.place.width
        keys = torch.zeros(batch, slots, self.size, device=device, dtype=dtype)  # [B, M + 1, E]
        values = torch.zeros(batch, slots, width, device=device, dtype=dtype)  # [B, M + 1, D]
        ids = torch.full((batch, slots, 1), NOTHING, device=device)  # [B, M + 1, 1]
        return {"pointer_keys": keys, "pointer_values": values, "pointer_ids": ids}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the last positions; leaves the pointer."""
        assert call.table is not None and call.ids is not None
        query = F.normalize(self.look(x), dim=-1)  # [B, T, E]
        read = call.ids[..., :1].masked_fill(call.table[..., None] != 0, OTHER)  # [B, T, 1]
        parts = {"pointer_keys": query, "pointer_values": x, "pointer_ids": read}
        joined, after = {}, {}
        for name, part in parts.items():
            joined[name], after[name] = last_inputs(state[name], part, call.lengths)
        ids = joined["pointer_ids"][..., 0]  # [B, M + 1 + T]
        slots = (ids[:, :-1] != NOTHING) & (ids[:, 1:] >= 0)  # [B, M + T], key of each and value
        weights, chosen = self._choose(query, joined["pointer_keys"], slots)  # [B, T, k] each
        index = chosen.flatten(1)  # [B, T k]
        rows = index[..., None].expand(-1, -1, x.shape[2])  # [B, T k, D]
        values = joined["pointer_values"].gather(1, rows)  # [B, T k, D]
        values = values.unflatten(1, chosen.shape[1:])  # [B, T, k, D]
        pointed = ids.gather(1, index).view_as(chosen).masked_fill(weights == 0, 0)  # [B, T, k]
        share = torch.sigmoid(self.share(x).to(weights.dtype))  # [B, T, 1]
        call.extra[POINTER] = pointed, share * weights
        context = (weights.to(x.dtype)[..., None] * values.to(x.dtype)).sum(-2)  # [B, T, D]
        return torch.sigmoid(self.gate(x)) * context, after

    def operations(self, context: int = 0) -> int:
        """Count the scores of all slots and the sum over the chosen ones."""
        return 2 * self.config.slots * self.size + 2 * self.points * self.place.width

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Look at x as it is, as the reference code does at embeddings; point rarely."""
        start_normal(self)
        if self.size == self.place.width:
            nn.init.eye_(self.look.weight)
        elif not self.look.weight.is_meta:
            nn.init.orthogonal_(self.look.weight)
        nn.init.constant_(self.share.bias, RARELY)
        nn.init.constant_(self.tau, SHARPNESS)
        self.tau.log_()

    def _choose(self, query: Tensor, keys: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """query [B, T, E], keys [B, M + 1 + T, E], slots [B, M + T] -> weights and places of values
        [B, T, k], in float32 or float64; without any slot all weights are 0.

        Positions go in pieces, so that scores are made for few slots that are out of reach.
        """
        reach, kind = self.config.slots, torch.promote_types(query.dtype, torch.float32)
        sharp = self.tau.to(kind).exp()  # [1]
        weights, places = [], []
        rows = max(ROWS, reach)
        for first in range(0, query.shape[1], rows):
            last = min(first + rows, query.shape[1])
            part = slice(first, last + reach - 1)
            scores = query[:, first:last] @ keys[:, part].to(query.dtype).mT  # [B, R, S]
            slot = torch.arange(last - first + reach - 1, device=query.device)  # [S]
            lag = slot - torch.arange(last - first, device=query.device)[:, None]  # [R, S]
            visible = ((lag >= 0) & (lag < reach)) & slots[:, None, part]  # [B, R, S]
            scores = scores.to(kind).masked_fill(~visible, torch.finfo(kind).min / 4)
            best, index = scores.topk(self.points, -1)  # [B, R, k] each
            held = visible.gather(-1, index)  # [B, R, k]
            best = (sharp * best.masked_fill(~held, 0)).masked_fill(~held, -torch.inf)
            best = best.masked_fill(~held.any(-1, keepdim=True), 0)  # a row of nothing is no NaN
            weights.append(best.softmax(-1) * held)  # [B, R, k]
            places.append(first + index + 1)  # [B, R, k]
        return torch.cat(weights, 1), torch.cat(places, 1)
