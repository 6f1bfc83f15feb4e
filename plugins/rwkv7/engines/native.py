"""The engine "native": a step of the whole RWKV-7 on a CPU in one C++ call.

``native.cpp`` computes; here weights are packed for it, once, in the order it reads them. Checked
against the step of plain PyTorch in float64 with the same weights by
``tests/plugins/test_rwkv7_engine.py::test_against_float64_with_the_same_weights``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.kernels.linear.build import library
from wishbone.kernels.linear.native import LANES, Matrix, Native, Pack, addresses, threads
from wishbone.plugins.engines import few
from wishbone.plugins.rwkv7.engines.native_prefill import Prefill
from wishbone.plugins.rwkv7.engines.parts import Block, Stack

SOURCE = Path(__file__).parent / "native.cpp"
LARGEST = 256
"""Head size up to which native.cpp has room on its stack."""
MOST = 16
"""Sequences a step takes. Beyond, the matrix products of PyTorch are faster than reading every
weight once for each four of them."""

VECTORS = (
    "norm_time_weight", "norm_time_bias", "mix", "w0", "a0", "v0", "k_k", "k_a", "r_k",
    "head_weight", "head_bias", "norm_channel_weight", "norm_channel_bias", "channel_mix",
)  # fmt: skip
READ_FIRST = ("receptance", "key", "value", "w1", "a1", "g1", "v1")
READ_LATER = ("w2", "a2", "v2", "g2", "output", "channel_key", "channel_value")
FIELDS = (
    "receptance", "key", "value", "w1", "a1", "v1", "g1",
    "w2", "a2", "v2", "g2", "output", "channel_key", "channel_value",
)  # fmt: skip


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in VECTORS),
        *((name, Matrix) for name in FIELDS),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "layers", "heads", "size")),
        *((name, ctypes.c_float) for name in ("head_eps", "norm_eps")),
        *((f"norm_{w}_{p}", ctypes.c_void_p) for w in ("in", "out") for p in ("weight", "bias")),
        ("blocks", ctypes.POINTER(_Block)),
    ]


class NativeRWKV7:
    """An engine (``wishbone.plugins.engines.Engine``) for float32 sums and float32 states."""

    narrow = False
    """States in bfloat16 are not taken."""

    def __init__(self, backbone: Stack, weights: str) -> None:
        """Pack the weights. Raises ``NativeMissing``, and ``ValueError`` for odd shapes."""
        shape = backbone.config
        if shape.head_size % LANES or shape.head_size > LARGEST:
            raise ValueError(f"heads of {shape.head_size}, where it has multiples of 16 up to 256")
        if backbone.norm_in.weight.dtype == torch.float64:
            raise ValueError("it computes in float32, the weights are float64")
        native = Native(build=True)
        self.few = few(backbone)
        self.library = library("rwkv7", SOURCE, build=True)
        self.threads = threads()
        self.width, self.layers, self.size = shape.width, shape.layers, shape.head_size
        self.heads = self.width // self.size
        self.names = [
            f"blocks.{i}.{part}"
            for i in range(self.layers)
            for part in ("wkv", "time_shift", "channel_shift")
        ]
        self.blocks = (_Block * self.layers)()
        self.model = _Model(self.width, self.layers, self.heads, self.size)
        self.model.blocks = self.blocks
        self.model.head_eps, self.model.norm_eps = shape.group_norm_eps, backbone.norm_in.eps
        self.pack = Pack()
        self._fill(backbone, weights)
        self.pack.close(native.large_pages)
        count = self.library.rwkv7_memory
        count.restype = ctypes.c_int64
        count.argtypes = [ctypes.POINTER(_Model), ctypes.c_int64, ctypes.c_int64]
        self._memory = count
        self._step = self.library.rwkv7_step
        self._step.argtypes = [
            ctypes.POINTER(_Model), ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 6,
        ]  # fmt: skip
        self._step.restype = None
        self.prefill = Prefill(backbone, weights, self.model, self.library)

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the backbone has weights of its own, so it begins as plain PyTorch."""

    def _fill(self, backbone: Stack, weights: str) -> None:
        """Add everything in the order in which a step reads it."""
        self.pack.vector(backbone.norm_in.weight, self.model, "norm_in_weight")
        self.pack.vector(backbone.norm_in.bias, self.model, "norm_in_bias")
        for block, into in zip(backbone.blocks, self.blocks, strict=True):
            _add_block(self.pack, block, into, weights)
        self.pack.vector(backbone.norm_out.weight, self.model, "norm_out_weight")
        self.pack.vector(backbone.norm_out.bias, self.model, "norm_out_bias")

    def takes(self, x: Tensor, state: State) -> bool:
        """True for a few sequences on the CPU, in types that fit into float32."""
        narrow = x.dtype != torch.float64 and state["blocks.0.wkv"].dtype == torch.float32
        narrow = narrow and not torch.is_autocast_enabled("cpu")
        return narrow and x.device.type == "cpu" and 0 < len(x) <= MOST

    def takes_many(self, x: Tensor, state: State) -> bool:
        """Return whether ``prefill`` can do this call; the caller sees to mask and gradient."""
        narrow = x.dtype != torch.float64 and state["blocks.0.wkv"].dtype == torch.float32
        low = torch.get_autocast_dtype("cpu") in (torch.bfloat16, torch.float32)
        return narrow and x.device.type == "cpu" and x.shape[1] > 1 and low

    def step_(self, x: Tensor, state: State) -> Tensor:
        """As ``Backbone.step_``; the entries of ``state`` become new tensors."""
        batch = len(x)
        kind = state["blocks.0.time_shift"].dtype
        before = [state[name] for name in self.names]
        if x.dtype != torch.float32 or kind != torch.float32 or not _plain(before):
            before = [tensor.to(torch.float32).contiguous() for tensor in before]
        vectors = x.detach().to(torch.float32).contiguous()  # [B, 1, D]
        y = torch.empty(batch, 1, self.width)  # [B, 1, D]
        matrices = torch.empty(self.layers, batch, self.heads, self.size, self.size)
        shifts = torch.empty(2, self.layers, batch, self.width)  # [2, L, B, D]
        # of this call alone: threads share this object
        scratch = torch.empty(self._memory(self.model, batch, self.threads) // 4 + LANES)
        self._step(
            self.model, batch, self.threads, vectors.data_ptr(), y.data_ptr(), addresses(before),
            matrices.data_ptr(), shifts.data_ptr(), scratch.data_ptr(),
        )  # fmt: skip
        if kind != torch.float32:
            shifts = shifts.to(kind)
        after = zip(matrices.unbind(), shifts[0].unbind(), shifts[1].unbind(), strict=True)
        tensors = (tensor for three in after for tensor in three)
        state.update(zip(self.names, tensors, strict=True))
        return y.to(x.dtype)


def _plain(tensors: list[Tensor]) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors)


def _add_block(pack: Pack, block: Block, into: _Block, weights: str) -> None:
    time, channel = block.time_mix, block.channel_mix
    has_value = hasattr(time, "v0")
    # Low-rank factors are small and decide decays and gates: eight bits are too few for them.
    low = "float32" if weights == "float32" else "bfloat16"
    vectors = {
        "norm_time_weight": block.norm_time.weight, "norm_time_bias": block.norm_time.bias,
        "mix": time.mix, "w0": time.w0, "a0": time.a0, "k_k": time.k_k, "k_a": time.k_a,
        "r_k": time.r_k, "head_weight": time.ln_x.weight, "head_bias": time.ln_x.bias,
        "norm_channel_weight": block.norm_channel.weight,
        "norm_channel_bias": block.norm_channel.bias, "channel_mix": channel.mix,
    }  # fmt: skip
    if has_value:
        vectors["v0"] = time.v0
    for name, values in vectors.items():
        pack.vector(values, into, name)
    layers = {
        "receptance": time.receptance, "key": time.key, "value": time.value,
        "output": time.output, "channel_key": channel.key, "channel_value": channel.value,
    }  # fmt: skip
    for name in (*READ_FIRST, *READ_LATER):
        if name in layers:
            pack.matrix(layers[name].weight, weights, getattr(into, name))
        elif name[0] != "v" or has_value:
            pack.matrix(getattr(time, name).mT, low, getattr(into, name))
