"""One position at a time: the formulas of layers.py and formula.py with nothing around them.

A step of a small model on a CPU costs what its number of operations costs, so there are few.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.plugins.rwkv7.formula import DECAY
from wishbone.plugins.rwkv7.layers import ChannelMix, TimeMix


def time_step(
    time: TimeMix, h: Tensor, first: Tensor | None, wkv: Tensor, carry: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """h, carry [B, D], wkv [B, H, V, K] -> out [B, D], v of block 0, the new wkv."""
    x_r, x_w, x_k, x_v, x_a, x_g = torch.addcmul(h, carry.to(h.dtype) - h, time.mix[:, None])
    heads = time.r_k.shape[0]
    batch, full = len(h), wkv.dtype
    r, k, v = time.receptance(x_r), time.key(x_k), time.value(x_v)
    raw = torch.tanh(x_w @ time.w1) @ time.w2
    decay = torch.exp(torch.sigmoid(raw.to(full) + time.w0) * -DECAY)
    a = torch.sigmoid(((x_a @ time.a1) @ time.a2).to(full) + time.a0)
    gate = torch.sigmoid(x_g @ time.g1) @ time.g2
    if first is None:
        first = v
    else:
        v = torch.lerp(v, first, torch.sigmoid((x_v @ time.v1) @ time.v2 + time.v0))
    k = k.to(full)
    lanes = (batch * heads, 1, -1)
    direction = F.normalize((k * time.k_k).view(lanes), dim=-1, eps=1e-12)
    k = torch.addcmul(k, k, (a - 1) * time.k_a).view(lanes)
    r, v_column = r.to(full).view(lanes), v.to(full).view(batch * heads, -1, 1)
    state = wkv.flatten(0, 1)
    removed = torch.bmm(state, -direction.mT)
    # [removed v] [b; k] is both outer products at once.
    state = torch.baddbmm(
        state * decay.view(lanes),
        torch.cat((removed, v_column), 2),
        torch.cat((direction * a.view(lanes), k), 1),
    )
    y = torch.bmm(state, r.mT).view(batch, -1)
    y = F.group_norm(y, heads, time.ln_x.weight.to(full), time.ln_x.bias.to(full), time.eps)
    share = ((r * k).view(batch, heads, -1) * time.r_k).sum(-1).view(-1, 1, 1)
    y = torch.add(y, (share * v_column).view(batch, -1)) * gate
    return time.output(y.to(h.dtype)), first, state.view_as(wkv)


def channel_step(channel: ChannelMix, h: Tensor, carry: Tensor) -> Tensor:
    """h, carry [B, D] -> out [B, D]."""
    x_k = torch.addcmul(h, carry.to(h.dtype) - h, channel.mix[0])
    return channel.value(torch.relu(channel.key(x_k)).square())
