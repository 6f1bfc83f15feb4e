"""Many positions at once beside the engine "native": PyTorch multiplies, C++ does the rest.

A matrix product of hundreds of rows is as fast as the processor; what lies between two of them
waits for memory when it is thirty operations, and does not when it is one. WKV itself runs one
position after another with the state of a head in the nearest cache, exactly as in decoding.
Checked against ``RWKV7.forward`` in float64 by
``tests/plugins/test_rwkv7_engine.py::test_many_positions_at_once``.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.plugins.rwkv7.engines.parts import Block, Stack

PIECE = 512
"""Positions that go through the blocks together: enough for the matrix products, few enough for
the cache, and memory does not grow with the text."""


class _Projected(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("r", "k", "v", "raw_w", "raw_a", "raw_v", "gate", "first")
    ]


class Prefill:
    """``forward`` of one backbone without mask or gradient; ``engine`` holds its vectors."""

    def __init__(
        self, backbone: Stack, weights: str, model: ctypes.Structure, library: ctypes.CDLL
    ) -> None:
        self.backbone = [backbone]  # in a list, so that it is no child of its own child
        self.model, self.width = model, backbone.width
        self.heads, self.size = (
            backbone.width // backbone.config.head_size,
            backbone.config.head_size,
        )
        self.narrow = weights != "float32"
        self.copies = [_narrow(block) for block in backbone.blocks] if self.narrow else None
        self.mix, self.scan = library.rwkv7_mix, library.rwkv7_scan
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self.mix.argtypes = [pointer, *[count] * 4, pointer, pointer, count, *[pointer] * 3]
        self.scan.argtypes = [pointer, *[count] * 4, *[pointer] * 5]
        self.mix.restype = self.scan.restype = None

    def __call__(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], the state after; ``state`` stays as it was."""
        parts = []
        narrow = self.narrow or torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):
            for piece in x.split(max(1, PIECE // len(x)), dim=1):
                y, state = self._piece(piece, state, narrow)
                parts.append(y.to(x.dtype))
        return torch.cat(parts, 1), state

    def _piece(self, x: Tensor, state: State, narrow: bool) -> tuple[Tensor, State]:
        (backbone,) = self.backbone
        batch, length, width = x.shape
        x = F.layer_norm(
            x.float(), (width,), backbone.norm_in.weight.float(), backbone.norm_in.bias.float(),
            backbone.norm_in.eps,
        ).view(-1, width)  # fmt: skip
        v_first = torch.empty_like(x)  # [B T, D]
        after: State = {}
        for i in range(len(backbone.blocks)):
            at = f"blocks.{i}."
            weights = self.copies[i] if self.copies else _matrices(backbone.blocks[i], narrow)
            carry = state[at + "time_shift"]
            mixed, last = self._mixed(i, True, batch, x, carry, narrow)  # [6, B T, D], [B, D]
            y, wkv = self._time(i, batch, mixed, weights, v_first, state[at + "wkv"])
            x += F.linear(y, weights["output"])
            after[at + "wkv"] = wkv
            after[at + "time_shift"] = last.to(carry.dtype)
            carry = state[at + "channel_shift"]
            (mixed,), last = self._mixed(i, False, batch, x, carry, narrow)
            inner = F.linear(mixed, weights["channel_key"]).relu_()
            x += F.linear(inner.mul_(inner), weights["channel_value"])
            after[at + "channel_shift"] = last.to(carry.dtype)
        norm = backbone.norm_out
        y = F.layer_norm(x, (width,), norm.weight.float(), norm.bias.float(), norm.eps)
        return y.view(batch, length, width), after

    def _mixed(
        self, i: int, time: bool, batch: int, x: Tensor, carry: Tensor, narrow: bool
    ) -> tuple[Tensor, Tensor]:
        """x [B T, D] -> [6 or 1, B T, D], the last normed vectors [B, D]."""
        kind = torch.bfloat16 if narrow else torch.float32
        out = torch.empty(6 if time else 1, *x.shape, dtype=kind)
        carry, last = carry.float().contiguous(), torch.empty(batch, self.width)
        room = torch.empty(2 * self.width)
        self.mix(
            ctypes.addressof(self.model), i, time, batch, len(x) // batch, x.data_ptr(),
            carry.data_ptr(), narrow, out.data_ptr(), last.data_ptr(), room.data_ptr(),
        )  # fmt: skip
        return out, last

    def _time(
        self, i: int, batch: int, mixed: Tensor, w: dict[str, Tensor], v_first: Tensor, wkv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """mixed [6, B T, D], v_first [B T, D], wkv [B, H, V, K] -> y [B T, D], the next wkv."""
        x_r, x_w, x_k, x_v, x_a, x_g = mixed  # [B T, D] each
        projected = {
            "r": F.linear(x_r, w["receptance"]),
            "k": F.linear(x_k, w["key"]),
            "v": F.linear(x_v, w["value"]),
            "raw_w": torch.tanh_(x_w @ w["w1"]) @ w["w2"],
            "raw_a": (x_a @ w["a1"]) @ w["a2"],
            "gate": torch.sigmoid_(x_g @ w["g1"]) @ w["g2"],
        }
        if i:
            projected["raw_v"] = (x_v @ w["v1"]) @ w["v2"]
        addresses = {name: tensor.data_ptr() for name, tensor in projected.items()}
        inputs = _Projected(first=v_first.data_ptr(), **addresses)
        wkv, after = wkv.float().contiguous(), torch.empty(wkv.shape)  # [B, H, V, K] each
        y, room = torch.empty_like(x_r), torch.empty(self.size**2)  # [B T, D], [V K]
        self.scan(
            ctypes.addressof(self.model), i, batch, len(x_r) // batch,
            x_r.dtype == torch.bfloat16, ctypes.addressof(inputs), wkv.data_ptr(),
            after.data_ptr(), y.data_ptr(), room.data_ptr(),
        )  # fmt: skip
        return y, after


def _matrices(block: Block, narrow: bool) -> dict[str, Tensor]:
    """The block's matrices as they are or in bfloat16; ``.weight`` is [out, in], w1 [in, rank]."""
    time, channel = block.time_mix, block.channel_mix
    matrices = {n: getattr(time, n).weight for n in ("receptance", "key", "value", "output")}
    matrices |= {"channel_key": channel.key.weight, "channel_value": channel.value.weight}
    for name in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"):
        if hasattr(time, name):
            matrices[name] = getattr(time, name)
    kind = torch.bfloat16 if narrow else torch.float32
    return {name: tensor.detach().to(kind) for name, tensor in matrices.items()}


def _narrow(block: Block) -> dict[str, Tensor]:
    return _matrices(block, True)
