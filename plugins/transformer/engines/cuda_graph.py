"""The engine "graph": the Transformer's decoding step in fixed memory, for a CUDA graph to replay.

The cache has room beyond its longest row. A step writes each row's keys and values behind its own
end and attends to what lies before it. Projections are fused, query heads of a group share one
read of their keys, and a block is six kernels for a few sequences and nine for many
(``wishbone.kernels.attention.triton_step``): a yardstick that is slow measures nothing. On a CPU
the same step runs on the PyTorch twins of these kernels, which is how it is checked against the
step of plain PyTorch by ``tests/plugins/test_transformer_graph.py``; on a GPU by
``tests/gpu/test_gpu_decode.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.model.cuda_graph import Replay
from wishbone.kernels.attention import step
from wishbone.kernels.wkv7.step import SMALL, product_add
from wishbone.plugins.transformer.layers import Block, Stack, rotary

WEIGHTS = {"float32": None, "bfloat16": torch.bfloat16}
"""Types matrices can be read in; None leaves them as they are."""


def attach(backbone: Stack, weights: str = "float32") -> Replay:
    """Let ``backbone.step_`` replay graphs from now on, and return the engine that does.

    It copies the weights. Attention is computed in the type of the cache. Raises
    ``CapabilityError`` with the reason where there is no such engine.
    """
    parameter = backbone.norm_out.weight
    problem = ""
    if parameter.device.type != "cuda":
        problem = f"the weights are on {parameter.device.type}, and only CUDA has graphs"
    elif weights not in WEIGHTS:
        problem = f"it reads float32 and bfloat16, not {weights}"
    if problem:
        raise CapabilityError(
            f"Transformer cannot decode by CUDA graph here: {problem}.",
            "the engine 'graph' of the transformer backbone",
            "Use the engine 'auto', or move the model to a CUDA device first.",
        )
    backbone._engine = replay = Replay(StaticTransformer(backbone, weights))
    return replay


@dataclass
class _Packed:
    """One block's matrices in the type they are read in, [out, in]."""

    norm_attention: Tensor
    qkv: Tensor
    bias: Tensor | None
    output: Tensor
    norm_ffn: Tensor
    gate_up: Tensor
    down: Tensor


class StaticTransformer:
    """A ``wishbone.core.model.cuda_graph.Static``."""

    counter = "length"
    narrow = True

    def __init__(
        self, backbone: Stack, weights: str = "float32", kernels: ModuleType | None = None
    ) -> None:
        """``kernels`` is ``triton_step`` or its twin ``step``; by default what the device runs."""
        config, parameter = backbone.config, backbone.norm_out.weight
        self.width, self.kind = backbone.width, WEIGHTS[weights] or parameter.dtype
        self.groups, self.size = config.kv_heads, config.width // config.heads
        self.theta, self.eps = config.rope_theta, config.norm_eps
        self.device = parameter.device
        self.kernels, self.product_add = kernels, product_add
        if kernels is None:
            self.kernels, self.product_add = _kernels(parameter.device, self.size)
        with torch.inference_mode(False), torch.no_grad():
            self.norm_out = parameter.detach().float().clone()
            self.blocks = [_pack(block, self.kind) for block in backbone.blocks]

    def takes(self, x: Tensor, state: State) -> bool:
        """True for float32 and bfloat16, on the device of the weights."""
        kinds = (torch.float32, torch.bfloat16)
        fits = x.dtype in kinds and state["blocks.0.key"].dtype in kinds
        return fits and x.device == self.device and len(x) > 0

    def allocate(self, batch: int, room: int, like: State) -> State:
        """As ``Static.allocate``; caches are [B, G, room, K]."""
        state: State = {}
        for name, part in like.items():
            shape = (batch,) if part.ndim == 1 else (batch, self.groups, room, self.size)
            state[name] = torch.zeros(shape, dtype=part.dtype, device=part.device)
        return state

    def step(self, x: Tensor, state: State, limit: int) -> Tensor:
        """As ``Static.step``; the residual stream is float32."""
        length = state["length"]
        x = x.to(torch.float32, copy=True)
        angles = rotary(length[:, None], self.size, self.theta, torch.float32)
        angles = angles[0][:, 0].contiguous(), angles[1][:, 0].contiguous()
        walk = self._few if len(x) <= SMALL else self._many
        x = walk(x, state, angles, limit)
        # a spare row of the batch may run past the end; nobody reads what it says
        length += 1
        return F.rms_norm(x, (self.width,), self.norm_out, self.eps)

    def _few(self, x: Tensor, state: State, angles: tuple[Tensor, Tensor], limit: int) -> Tensor:
        """Every matrix is read once for all sequences, by kernels that repeat the norm."""
        kernels = self.kernels
        for i, block in enumerate(self.blocks):
            cache = state[f"blocks.{i}.key"], state[f"blocks.{i}.value"]
            qkv = kernels.norm_product(
                x, block.norm_attention, self.eps, block.qkv, block.bias
            )  # [B, (H + 2 G) K]
            y = kernels.attend(qkv, *cache, state["length"], angles, limit, self.kind)  # [B, D]
            self.product_add(y, block.output, x)
            inner = kernels.norm_product(
                x, block.norm_ffn, self.eps, block.gate_up, None, gated=True
            )  # [B, F]
            self.product_add(inner, block.down, x)
        return x

    def _many(self, x: Tensor, state: State, angles: tuple[Tensor, Tensor], limit: int) -> Tensor:
        """The products are the library's."""
        kernels, branch = self.kernels, None
        for i, block in enumerate(self.blocks):
            cache = state[f"blocks.{i}.key"], state[f"blocks.{i}.value"]
            h = kernels.norm_add(x, branch, block.norm_attention, self.eps, self.kind)  # [B, D]
            qkv = F.linear(h, block.qkv, block.bias)  # [B, (H + 2 G) K]
            y = kernels.attend(qkv, *cache, state["length"], angles, limit, self.kind)  # [B, D]
            branch = F.linear(y, block.output)  # [B, D]
            h = kernels.norm_add(x, branch, block.norm_ffn, self.eps, self.kind)  # [B, D]
            inner = kernels.gate(F.linear(h, block.gate_up))  # [B, F]
            branch = F.linear(inner, block.down)  # [B, D]
        return x + branch

    def bytes_per_step(self, batch: int, state: State) -> int:
        """Bytes a step must read and write: every matrix, every cache to its end, a slot each."""
        weights = sum(
            tensor.numel() * tensor.element_size()
            for block in self.blocks
            for tensor in vars(block).values()
            if tensor is not None
        )
        key = state["blocks.0.key"]
        slot = 2 * len(self.blocks) * self.groups * self.size * key.element_size()
        return weights + slot * (int(state["length"][:batch].sum()) + batch)


def _kernels(device: torch.device, size: int) -> tuple[ModuleType, Callable[..., None]]:
    """The kernels, and the one that multiplies and adds; PyTorch for heads that no kernel knows."""
    if device.type != "cuda":
        return step, product_add
    # These import triton, which only GPUs need.
    from wishbone.kernels.attention import triton_step
    from wishbone.kernels.wkv7.triton_step import product_add as add

    return (triton_step, add) if size in triton_step.SIZES else (step, product_add)


def _pack(block: Block, kind: torch.dtype) -> _Packed:
    attention, ffn = block.attention, block.ffn

    def copied(tensor: Tensor, to: torch.dtype = kind) -> Tensor:
        return tensor.detach().to(to, copy=True)

    return _Packed(
        norm_attention=copied(block.norm_attention.weight, torch.float32),
        qkv=copied(attention.qkv.weight),
        bias=None if attention.qkv.bias is None else copied(attention.qkv.bias),
        output=copied(attention.output.weight),
        norm_ffn=copied(block.norm_ffn.weight, torch.float32),
        gate_up=copied(ffn.gate_up.weight),
        down=copied(ffn.down.weight),
    )
