"""The longest match, by its definition: no automaton, one row of match lengths a position.

Let m_i[j] be the number of latest bits of q up to position i that equal those of k up to j < i::

    m_i[j] = (1 + m_{i-1}[j-1]) if q_i = k_j else 0
    answer_i = v[j + 1] of the greatest m_i[j] > 0, of equal ones the latest j; no match: 0

BlinkDL's automaton (RWKV-LM, RWKV-v8) finds the same j in one walk for each channel; here all
channels of all rows go at once, and a position costs as much as there are positions before it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def next_match(
    match: Tensor, q: Tensor, k: Tensor, start: Tensor, t: int
) -> tuple[Tensor, Tensor, Tensor]:
    """match [B, S', C], q [B, C], k [B, S, C], start [B] -> match, source, hit of position t.

    ``match`` are the lengths of the position before, at the same slots of k or all but the last;
    row b is at position start[b] + t now, and only earlier slots count. Returns the lengths of this
    position [B, S, C], the slot j + 1 [B, C] of the answer, and whether there is one [B, C]. S is
    not 0.
    """
    slots = k.shape[1]
    longer = torch.nn.functional.pad(match, (0, 0, 1, 0))[:, :slots] + 1  # [B, S, C]
    slot = torch.arange(slots, device=k.device)  # [S]
    equal = k == q[:, None]  # [B, S, C]
    if len(k) > 1:  # a single row is as long as the longest
        equal &= (slot < start[:, None] + t)[..., None]  # [B, S, C]
    match = torch.where(equal, longer, 0)  # [B, S, C]
    # One number orders by length and then by slot.
    wide = torch.int32 if slots < 2**15 else torch.int64
    order = torch.add(slot[:, None].to(wide), match.to(wide), alpha=slots)  # [B, S, C]
    best = order.amax(1).long()  # [B, C]
    return match, best % slots + 1, best >= slots
