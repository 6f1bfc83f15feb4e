"""The engine "native": a step of the whole Transformer on a CPU in one C++ call.

``native.cpp`` computes and writes the new keys and values into memory that cache.py keeps spare.
Checked against the step of plain PyTorch in float64 with the same weights by
``tests/plugins/test_transformer_engine.py::test_against_float64_with_the_same_weights``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.kernels.linear.build import library
from wishbone.kernels.linear.native import LANES, Matrix, Native, Pack, threads
from wishbone.plugins.engines import few
from wishbone.plugins.transformer.cache import room_
from wishbone.plugins.transformer.layers import Block, Stack, rotary

SOURCE = Path(__file__).parent / "native.cpp"
MOST = 16
"""Sequences a step takes, as in the engine of rwkv7."""


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("norm_attention", "norm_ffn", "qkv_bias")),
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "layers", "heads", "kv_heads", "size")),
        ("norm_eps", ctypes.c_float),
        ("norm_out", ctypes.c_void_p),
        ("blocks", ctypes.POINTER(_Block)),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("key_stride", ctypes.c_int64),
        ("value_stride", ctypes.c_int64),
    ]


class NativeTransformer:
    """An engine (``wishbone.plugins.engines.Engine``) for float32 sums and float32 caches."""

    narrow = False
    """States in bfloat16 are not taken."""

    def __init__(self, backbone: Stack, weights: str) -> None:
        """Pack the weights. Raises ``NativeMissing``, and ``ValueError`` for odd shapes."""
        config = backbone.config
        self.size = config.width // config.heads
        if self.size % LANES or config.width % LANES:
            raise ValueError(f"heads of {self.size}, where it has multiples of {LANES}")
        if backbone.norm_out.weight.dtype == torch.float64:
            raise ValueError("it computes in float32, the weights are float64")
        native = Native(build=True)
        self.few = few(backbone)
        self.library = library("transformer", SOURCE, build=True)
        self.threads = threads()
        self.theta = config.rope_theta
        self.width, self.layers = config.width, config.layers
        self.names = [(f"blocks.{i}.key", f"blocks.{i}.value") for i in range(config.layers)]
        self.blocks = (_Block * self.layers)()
        self.model = _Model(
            config.width, config.layers, config.heads, config.kv_heads, self.size, config.norm_eps
        )
        self.model.blocks = self.blocks
        self.pack = Pack()
        for block, into in zip(backbone.blocks, self.blocks, strict=True):
            _add_block(self.pack, block, into, weights)
        self.pack.vector(backbone.norm_out.weight, self.model, "norm_out")
        self.pack.close(native.large_pages)
        self._turns: tuple[Tensor, Tensor] | None = None
        self._step = self.library.transformer_step
        self._step.argtypes = [
            ctypes.POINTER(_Model), *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 6,
            ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip
        self._step.restype = None
        self._memory = self.library.transformer_memory
        self._memory.argtypes = [ctypes.POINTER(_Model), *[ctypes.c_int64] * 3]
        self._memory.restype = ctypes.c_int64

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the backbone has weights of its own, so it begins as plain PyTorch."""

    def takes(self, x: Tensor, state: State) -> bool:
        """True for a few sequences on the CPU, in float32."""
        narrow = x.dtype == state["blocks.0.key"].dtype == torch.float32
        autocast = torch.is_autocast_enabled("cpu")
        return narrow and not autocast and x.device.type == "cpu" and 0 < len(x) <= MOST

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D]; ``state`` gets the longer caches."""
        batch, length = len(x), state["length"]
        if batch == 1:
            used = int(length)
            even = True
        else:
            low, high = (int(n) for n in length.aminmax())
            used, even = high, low == high
        # caches and scratch are of this call alone: threads share this object
        caches = (_Cache * self.layers)()
        for cache, names in zip(caches, self.names, strict=True):
            key, state[names[0]] = room_(state[names[0]], used, even)
            value, state[names[1]] = room_(state[names[1]], used, even)
            cache.key, cache.value = key.data_ptr(), value.data_ptr()
            cache.key_stride, cache.value_stride = key.stride(1), value.stride(1)
        length = length.contiguous()
        cosines, sines = (turns[length] for turns in self._turned(used))
        y, vectors = torch.empty(batch, 1, self.width), x.detach().contiguous()
        scratch = torch.empty(self._memory(self.model, batch, self.threads, used + 1) // 4 + LANES)
        self._step(
            self.model, batch, self.threads, vectors.data_ptr(), y.data_ptr(), caches,
            length.data_ptr(), cosines.data_ptr(), sines.data_ptr(), used + 1,
            scratch.data_ptr(),
        )  # fmt: skip
        state["length"] = length + 1
        return y

    def _turned(self, used: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [positions, K/2] of positions up to ``used`` and more."""
        turns = self._turns
        if turns is None or len(turns[0]) <= used:
            # another thread may put a shorter table there meanwhile: this one is returned
            positions = torch.arange(2 * used + 64)
            turns = self._turns = rotary(positions, self.size, self.theta, torch.float32)
        return turns


def _add_block(pack: Pack, block: Block, into: _Block, weights: str) -> None:
    pack.vector(block.norm_attention.weight, into, "norm_attention")
    pack.vector(block.norm_ffn.weight, into, "norm_ffn")
    if block.attention.qkv.bias is not None:
        pack.vector(block.attention.qkv.bias, into, "qkv_bias")
    pack.matrix(block.attention.qkv.weight, weights, into.qkv)
    pack.matrix(block.attention.output.weight, weights, into.output)
    # Gate and up each begin at a multiple of the lanes.
    halves = block.ffn.gate_up.weight.detach().unflatten(0, (2, -1))
    padded = torch.nn.functional.pad(halves, (0, 0, 0, -halves.shape[1] % LANES))
    pack.matrix(padded.flatten(0, 1), weights, into.gate_up)
    pack.matrix(block.ffn.down.weight, weights, into.down)
