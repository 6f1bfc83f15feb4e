"""A frozen linear layer whose weight is kept in few bits and never held in full.

int8 has one scale for every row, as in LLM.int8 (arXiv:2208.07339, section 2.1). NF4 has sixteen
levels, the quantiles of a normal distribution, and one scale for every 64 numbers (QLoRA,
arXiv:2305.14314, section 3 and appendix E). The scales themselves stay float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.kernels.linear.product import narrowed

KINDS = ("float32", "bfloat16", "int8", "nf4")
"""Precisions of a base's frozen weights; "float32" leaves them as they are."""
BLOCK = 64
"""Numbers that share one scale in NF4."""
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""NF4's, from appendix E of the paper."""


def quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weight [R, C] -> the nearest level of every number [R, C] uint8, and scales [N].

    Blocks are 64 numbers in a row of the flattened matrix, the last one shorter; a scale is the
    largest absolute number of its block.
    """
    flat = weight.detach().float().flatten()  # [R C]
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)  # [N, 64]
    scale = blocks.abs().amax(1)  # [N]
    levels = torch.tensor(LEVELS, device=flat.device)  # [16]
    # a number exactly between two levels takes the lower one
    middles = (levels[1:] + levels[:-1]) / 2  # [15]
    normed = blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]  # [N, 64]
    index = torch.bucketize(normed, middles).to(torch.uint8)  # [N, 64]
    return index.flatten()[: len(flat)].view(weight.shape), scale  # [R, C], [N]


def dequantize_nf4(index: Tensor, scale: Tensor) -> Tensor:
    """Restore index [R, C] uint8 with scale [N], one a block -> weight [R, C] float32."""
    levels = torch.tensor(LEVELS, device=index.device)[index.flatten().long()]  # [R C]
    blocks = F.pad(levels, (0, -len(levels) % BLOCK)).view(-1, BLOCK) * scale[:, None]  # [N, 64]
    return blocks.flatten()[: len(levels)].view(index.shape)  # [R, C]


class QuantizedLinear(nn.Linear):
    """Compute y = x W^T + b with W frozen and stored as ``kind``; gradients pass through to x.

    ``weight`` is computed when it is read, so whatever reads it sees what the layer computes with.
    In a file ``weight`` holds the numbers as they are stored (NF4: a level a byte) and ``scale``
    their scales; a ``weight`` of floating point loads, too, and is quantised then.
    """

    whole_weight = True
    """True: ``weight`` is all there is, so engines may read it."""

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind = kind
        self.bias = linear.bias
        self.register_buffer("codes", None, persistent=False)
        self.register_buffer("scale", None, persistent=False)
        self.store(linear.weight)

    @property
    def weight(self) -> Tensor:
        """The weight [R, C] in float32, computed anew at each reading."""
        if self.kind == "nf4":
            return dequantize_nf4(self.levels(), self.scale)
        full = self.codes.float()  # [R, C]
        return full if self.scale is None else full * self.scale[:, None]  # [R, C]

    def store(self, weight: Tensor) -> None:
        """Quantise and store weight [R, C] of floating point."""
        if self.kind == "nf4":
            index, scale = quantize_nf4(weight)
            self._set(index, scale)
        else:
            self._set(*narrowed(weight, self.kind))

    def levels(self) -> Tensor:
        """Return the stored numbers [R, C]: bfloat16, int8, or NF4's levels as uint8."""
        if self.kind != "nf4":
            return self.codes
        both = torch.stack((self.codes >> 4, self.codes & 15), 1).flatten()  # [R C (+ 1)]
        size = self.out_features * self.in_features
        return both[:size].view(self.out_features, self.in_features)  # [R, C]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., R]."""
        bias = self.bias
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, bias = x.to(kind), None if bias is None else bias.to(kind)
        y = _Product.apply(x, self)  # [..., R]
        return y if bias is None else y + bias.to(y.dtype)  # [..., R]

    def extra_repr(self) -> str:
        """Describe the layer for ``print``."""
        return f"{super().extra_repr()}, kept as {self.kind}"

    def _set(self, codes: Tensor, scale: Tensor | None) -> None:
        if self.kind == "nf4":
            flat = F.pad(codes.flatten(), (0, codes.numel() % 2))  # [R C (+ 1)]
            codes = flat[::2] << 4 | flat[1::2]  # [R C / 2], two levels in a byte
        self.codes, self.scale = codes.contiguous(), scale

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.levels()
        if self.scale is not None:
            destination[f"{prefix}scale"] = self.scale

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, meta: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        remaining = dict(state)
        weight = remaining.pop(f"{prefix}weight", None)
        scale = remaining.pop(f"{prefix}scale", None)
        super()._load_from_state_dict(remaining, prefix, meta, strict, missing, unexpected, errors)
        stored = self.levels()
        if weight is None:
            missing.append(f"{prefix}weight")
        elif weight.shape != stored.shape:
            errors.append(f"{prefix}weight is {list(weight.shape)}, not {list(stored.shape)}")
        elif weight.dtype == stored.dtype and (scale is None) == (self.scale is None):
            device = self.codes.device
            self._set(weight.to(device), None if scale is None else scale.float().to(device))
        elif weight.is_floating_point():
            self.store(weight.to(self.codes.device))
        else:
            errors.append(f"{prefix}weight is {weight.dtype}, and this layer keeps {stored.dtype}")

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Move to devices; another floating type is for computing, not for what is stored."""
        codes, scale = self.codes, self.scale
        super()._apply(fn, recurse)
        if not codes.is_meta:
            self.codes = codes.to(self.codes.device)
            self.scale = None if scale is None else scale.to(self.codes.device)
        return self


class _Product(torch.autograd.Function):
    """Compute x W^T; backward computes the weight again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, layer.weight.to(x.dtype))  # [..., R]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(dy.device.type, enabled=False):
            return dy @ ctx.layer.weight.to(dy.dtype), None  # [..., C]
