"""The engine "graph": RWKV-7's decoding step in fixed memory, for a CUDA graph to replay.

Matrices that are multiplied one after another lie beside each other, so that a block is five
kernels for a few sequences and eleven for many (``wishbone.kernels.wkv7.triton_step``). On a CPU
the same step runs on the PyTorch twins of these kernels, which is how it is checked against the
step of plain PyTorch by ``tests/plugins/test_rwkv7_graph.py``; on a GPU by
``tests/gpu/test_gpu_decode.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.model.cuda_graph import Replay
from wishbone.kernels.wkv7 import step
from wishbone.kernels.wkv7.step import SMALL
from wishbone.plugins.rwkv7.engines.parts import Block, Stack
from wishbone.plugins.rwkv7.layers import TimeMix

SIZES = (16, 32, 64, 128)
"""Head sizes the kernels hold in registers."""

WEIGHTS = {"float32": None, "bfloat16": torch.bfloat16}
"""Types matrices can be read in; None leaves them as they are."""


def attach(backbone: Stack, weights: str = "float32") -> Replay:
    """Let ``backbone.step_`` replay graphs from now on, and return the engine that does.

    It copies the weights. The recurrent state may be float32 or bfloat16; sums are float32.
    Raises ``CapabilityError`` with the reason where there is no such engine.
    """
    parameter = backbone.norm_in.weight
    problem = ""
    if parameter.device.type != "cuda":
        problem = f"the weights are on {parameter.device.type}, and only CUDA has graphs"
    elif weights not in WEIGHTS:
        problem = f"the kernels read float32 and bfloat16, not {weights}"
    elif backbone.config.head_size not in SIZES:
        problem = f"heads of {backbone.config.head_size}, where the kernels know {SIZES}"
    elif parameter.dtype == torch.float64:
        problem = "the kernels compute in float32, the weights are float64"
    if problem:
        raise CapabilityError(
            f"RWKV7 cannot decode by CUDA graph here: {problem}.",
            "the engine 'graph' of the rwkv7 backbone",
            "Use the engine 'auto', or move the model to a CUDA device first.",
        )
    backbone._engine = replay = Replay(StaticRWKV7(backbone, weights))
    return replay


@dataclass
class _Packed:
    """One block's numbers as the kernels read them. Matrices are [out, in]."""

    time_norm: Tensor
    mix: Tensor
    """[7, D] for r, k, v, then the low-rank w, a, v, g."""
    read: Tensor
    """[3 D + 4 R, D]: receptance, key, value, and the four low-rank matrices, of R rows each."""
    up: Tensor
    """[4, D, R]."""
    vectors: Tensor
    """[8, D], in the order of ``kernels.wkv7.step``."""
    output: Tensor
    channel_norm: Tensor
    channel_mix: Tensor
    key: Tensor
    value: Tensor


class StaticRWKV7:
    """A ``wishbone.core.model.cuda_graph.Static``."""

    counter = ""
    narrow = True

    def __init__(
        self, backbone: Stack, weights: str = "float32", kernels: ModuleType | None = None
    ) -> None:
        """``kernels`` is ``triton_step`` or its twin ``step``; by default what the device runs."""
        parameter = backbone.norm_in.weight
        if kernels is None:
            kernels = _kernels(parameter.device)
        self.kernels = kernels
        self.width, self.kind = backbone.width, WEIGHTS[weights] or parameter.dtype
        self.eps, self.head_eps = backbone.norm_in.eps, backbone.config.group_norm_eps
        self.device = parameter.device
        with torch.inference_mode(False), torch.no_grad():
            self.norm_in, self.norm_out = _norm(backbone.norm_in), _norm(backbone.norm_out)
            self.blocks = [_pack(block, self.kind) for block in backbone.blocks]

    def takes(self, x: Tensor, state: State) -> bool:
        """True for float32 and bfloat16, on the device of the weights."""
        kinds = (torch.float32, torch.bfloat16)
        fits = x.dtype in kinds and state["blocks.0.wkv"].dtype in kinds
        return fits and x.device == self.device and len(x) > 0

    def allocate(self, batch: int, room: int, like: State) -> State:
        """As ``Static.allocate``."""
        return {
            name: torch.zeros(batch, *part.shape[1:], dtype=part.dtype, device=part.device)
            for name, part in like.items()
        }

    def step(self, x: Tensor, state: State, limit: int) -> Tensor:
        """As ``Static.step``; the residual stream is float32."""
        x = F.layer_norm(x.float(), (self.width,), *self.norm_in, self.eps)  # [B, D]
        v_first = torch.empty_like(x)  # [B, D]
        walk = self._few if len(x) <= SMALL else self._many
        x = walk(x, v_first, state)
        return F.layer_norm(x, (self.width,), *self.norm_out, self.eps)

    def _few(self, x: Tensor, v_first: Tensor, state: State) -> Tensor:
        """Five kernels a block; every matrix is read once for all sequences."""
        kernels, batch, width = self.kernels, *x.shape
        for i, block in enumerate(self.blocks):
            wkv, time_shift, channel_shift = _parts(state, i)
            out, h = kernels.mixed_product(
                x, time_shift, block.time_norm, self.eps, block.mix, block.read, width
            )  # [B, 3 D + 4 R], [B, D]
            rkv = out[:, : 3 * width].view(batch, 3, width).transpose(0, 1)  # [3, B, D]
            low = out[:, 3 * width :].view(batch, 4, -1).transpose(0, 1)  # [4, B, R]
            y = kernels.recur(
                rkv, low, block.vectors, v_first, wkv, self.head_eps, i == 0,
                up=block.up, h=h, shift=time_shift, dtype=self.kind,
            )  # [B, D]  # fmt: skip
            kernels.product_add(y, block.output, x)
            inner, h = kernels.mixed_product(
                x, channel_shift, block.channel_norm, self.eps, block.channel_mix, block.key,
                width, squared_relu=True,
            )  # [B, F], [B, D]  # fmt: skip
            kernels.product_add(inner, block.value, x, h, channel_shift)
        return x

    def _many(self, x: Tensor, v_first: Tensor, state: State) -> Tensor:
        """The products are the library's, which read their inputs from memory."""
        kernels, width, branch = self.kernels, x.shape[1], None
        for i, block in enumerate(self.blocks):
            wkv, time_shift, channel_shift = _parts(state, i)
            mixed = kernels.norm_mix(
                x, branch, time_shift, block.time_norm, self.eps, block.mix, self.kind
            )  # [7, B, D]
            read = block.read[: 3 * width].view(3, width, width)  # [3, D, D]
            rkv = torch.bmm(mixed[:3], read.mT)  # [3, B, D]
            down = block.read[3 * width :].view(4, -1, width)  # [4, R, D]
            low = torch.bmm(mixed[3:], down.mT)  # [4, B, R]
            kernels.squeeze_low(low)
            low = torch.bmm(low, block.up.mT)  # [4, B, D]
            y = kernels.recur(
                rkv, low, block.vectors, v_first, wkv, self.head_eps, i == 0, dtype=self.kind
            )
            branch = F.linear(y, block.output)  # [B, D]
            (mixed,) = kernels.norm_mix(
                x, branch, channel_shift, block.channel_norm, self.eps, block.channel_mix,
                self.kind,
            )  # fmt: skip
            inner = F.linear(mixed, block.key)  # [B, F]
            kernels.squared_relu(inner)
            branch = F.linear(inner, block.value)  # [B, D]
        return x + branch

    def bytes_per_step(self, batch: int, state: State) -> int:
        """Bytes a step must read and write: every matrix once, every state in and out."""
        weights = sum(
            tensor.numel() * tensor.element_size()
            for block in self.blocks
            for tensor in vars(block).values()
        )
        rows = sum(part[0].numel() * part.element_size() for part in state.values())
        return weights + 2 * batch * rows


def _kernels(device: torch.device) -> ModuleType:
    """Triton on a GPU, their PyTorch twins elsewhere."""
    if device.type != "cuda":
        return step
    from wishbone.kernels.wkv7 import triton_step  # imports triton, which only GPUs need

    return triton_step


def _parts(state: State, i: int) -> tuple[Tensor, Tensor, Tensor]:
    at = f"blocks.{i}."
    return state[at + "wkv"], state[at + "time_shift"], state[at + "channel_shift"]


def _norm(layer: torch.nn.LayerNorm) -> Tensor:
    """Weight and bias [2, D] float32."""
    return torch.stack([layer.weight, layer.bias]).float()


def _pack(block: Block, kind: torch.dtype) -> _Packed:
    time, channel = block.time_mix, block.channel_mix
    low = _low_rank(time)
    rank = max(down.shape[1] for down, _ in low)
    mix_r, mix_w, mix_k, mix_v, mix_a, mix_g = time.mix.float()
    read = [time.receptance.weight, time.key.weight, time.value.weight]
    read += [F.pad(down, (0, rank - down.shape[1])).mT for down, _ in low]
    zero = torch.zeros_like(time.w0)  # [D]
    vectors = [time.w0, time.a0, getattr(time, "v0", zero), time.k_k, time.k_a]
    vectors += [time.r_k.flatten(), time.ln_x.weight, time.ln_x.bias]
    return _Packed(
        time_norm=_norm(block.norm_time),
        mix=torch.stack([mix_r, mix_k, mix_v, mix_w, mix_a, mix_v, mix_g]),
        read=torch.cat(read).to(kind),
        up=torch.stack([F.pad(up.mT, (0, rank - len(up))) for _, up in low]).to(kind),
        vectors=torch.stack([vector.float() for vector in vectors]),
        output=time.output.weight.detach().to(kind, copy=True),
        channel_norm=_norm(block.norm_channel),
        channel_mix=channel.mix.detach().float().clone(),
        key=channel.key.weight.detach().to(kind, copy=True),
        value=channel.value.weight.detach().to(kind, copy=True),
    )


def _low_rank(time: TimeMix) -> list[tuple[Tensor, Tensor]]:
    """(in [D, rank], out [rank, D]) of decay, rate, value share and gate; block 0 has no third.

    Sigmoid of a padded zero is a half, and meets a zero of the padded ``up``.
    """
    nothing = time.w1.new_zeros(len(time.w1), 1), time.w1.new_zeros(1, len(time.w1))
    value = (time.v1, time.v2) if hasattr(time, "v1") else nothing
    return [(time.w1, time.w2), (time.a1, time.a2), value, (time.g1, time.g2)]
