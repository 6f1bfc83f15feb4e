"""Kernel up-scaling and decorrelation of state tuning (arXiv 2504.05097), an interpretation.

Beside the matrix S [N, N] of a head of RWKV-7 stands a larger one, T [M, M], of features of the
same vectors. With M supports u and a rotation R of the features, per head::

    f(x)   = R (exp(-gamma |x - u_1|^2) ... exp(-gamma |x - u_M|^2)) / sqrt(M)
    kappa' = f(kappa) / |f(kappa)|        w' = mean of w        a' = mean of a
    T      = T (w' I - a' kappa' kappa'^T) + f(v) f(k)^T
    y      = S r + Q T f(r)               Q = 0 at first

before the norm of the head. The paper's T diag(f(w)) - T f(kappa)^T (f(a) f(kappa)) is not stable;
here no eigenvalue of what multiplies T is outside of (-1, 1). R decorrelates features by a rule of
its own (arXiv 2405.02385), after every batch of a training, with z the features of the keys::

    R <- R - rate ((1 - share) offdiag(E z z^T) + share diag(E z^2 - 1)) R

where z is taken without the 1 / sqrt(M).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.contract.errors import CapabilityError
from wishbone.kernels.elementwise import finish
from wishbone.kernels.wkv7 import wkv7
from wishbone.plugins.rwkv7.attention import written
from wishbone.plugins.rwkv7.engines.fused_backward import Vectors
from wishbone.plugins.rwkv7.layers import TimeMix
from wishbone.plugins.stack.block import Block

NAME = "upscaled"
"""Name of T in the state of a block."""


class UpScaled(nn.Module):
    """The larger memory of one time mixing; ``learn`` sets the rule of R."""

    def __init__(self, heads: int, size: int, supports: int, gamma: float = 0.0) -> None:
        """M is ``supports``; a ``gamma`` of 0 means 1 / 2N."""
        super().__init__()
        self.gamma = gamma or 1 / (2 * size)
        self.rate, self.share = 0.0, 0.0
        self.register_buffer("supports", torch.randn(heads, supports, size))  # [H, M, N]
        eye = torch.eye(supports).repeat(heads, 1, 1)  # [H, M, M]
        self.register_buffer("rotation", eye)
        self.output = nn.Parameter(torch.zeros(heads, size, supports))  # [H, N, M]
        """Q."""
        self.supports: Tensor
        self.rotation: Tensor

    def first(self, wkv: Tensor) -> State:
        """wkv [B, H, N, N] -> T of as many rows, zeros."""
        count = self.output.shape[-1]
        return {NAME: wkv.new_zeros(*wkv.shape[:2], count, count)}  # [B, H, M, M]

    def forward(
        self, projected: tuple[Tensor, ...], vectors: Vectors, state: State, mask: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, State]:  # fmt: skip
        """Compute ``attend`` with T beside S: y [B, T, D] and both states after."""
        r, _, v, _, low_a, gate = projected  # [B, T, D] each
        inputs = written(projected, vectors, state["wkv"])
        y, wkv = wkv7(*inputs, state["wkv"], mask)  # [B, T, H, N], [B, H, N, N]
        kind = state[NAME].dtype
        r_heads, g, k, v_heads, a, _ = (z.to(kind) for z in inputs)  # [B, T, H, N] each
        if self.training and self.rate and torch.is_grad_enabled():
            self._decorrelate(k, mask)
        features = [self._features(z) for z in (r_heads, k, v_heads)]  # [B, T, H, M] each
        kappa = F.normalize(self._features(-a), dim=-1)  # [B, T, H, M]
        share = torch.sigmoid(low_a.to(kind) + vectors.a0.to(kind))  # [B, T, D]
        share = share.unflatten(-1, (g.shape[2], -1)).mean(-1, keepdim=True)  # [B, T, H, 1]
        decay = g.exp().mean(-1, keepdim=True).log().expand_as(kappa)  # [B, T, H, M]
        read, key, value = features
        more, large = wkv7(
            read, decay, key, value, -kappa, kappa * share, state[NAME], mask
        )  # [B, T, H, M], [B, H, M, M]
        y = y + torch.einsum("bthm,hnm->bthn", more, self.output.to(kind)).to(y.dtype)
        norm = (vectors.norm_weight, vectors.norm_bias, eps)
        y = finish(y, r, inputs[2], v, gate, vectors.r_k, *norm)  # [B, T, D]
        return y, {"wkv": wkv, NAME: large.contiguous()}

    def learn(self, rate: float, share: float) -> None:
        """Decorrelate by ``rate`` in training; ``share`` is that of variances."""
        self.rate, self.share = rate, share

    def operations(self) -> int:
        """Count features of four vectors, T's nine a number, and Q."""
        heads, size, count = self.output.shape
        features = 4 * count * (3 * size + 2 * count)
        return heads * (features + 9 * count * count + 2 * size * count)

    def _features(self, x: Tensor) -> Tensor:
        """x [B, T, H, N] -> f(x) [B, T, H, M]."""
        rotated = self._kernel(x) @ self.rotation.to(x.dtype).mT  # [B, H, T, M]
        return rotated.transpose(1, 2) / self.rotation.shape[-1] ** 0.5

    def _kernel(self, x: Tensor) -> Tensor:
        """x [B, T, H, N] -> exp(-gamma |x - u|^2) [B, H, T, M]."""
        supports = self.supports.to(x.dtype)  # [H, M, N]
        x = x.transpose(1, 2)  # [B, H, T, N]
        squares = x.square().sum(-1, keepdim=True) + supports.square().sum(-1)[:, None]
        distance = squares - 2 * x @ supports.mT  # [B, H, T, M]
        return torch.exp(-self.gamma * distance.clamp_min(0))

    @torch.no_grad()
    def _decorrelate(self, k: Tensor, mask: Tensor | None) -> None:
        """k [B, T, H, N]: move R by one step of its rule, on the real positions."""
        z = (self._kernel(k) @ self.rotation.to(k.dtype).mT).transpose(1, 2)  # [B, T, H, M]
        z = (z.flatten(0, 1) if mask is None else z[mask]).transpose(0, 1)  # [H, P, M]
        if not z.shape[1]:
            return
        product = z.mT @ z / z.shape[1]  # [H, M, M]
        diagonal = torch.diagonal(product, dim1=-2, dim2=-1)  # [H, M]
        apart = product - torch.diag_embed(diagonal)  # [H, M, M]
        wrong = (1 - self.share) * apart + self.share * torch.diag_embed(diagonal - 1)
        rotation = self.rotation.to(wrong.dtype)  # [H, M, M]
        # a new tensor: the old one is part of the graph of this very call
        self.rotation = (rotation - self.rate * wrong @ rotation).to(self.rotation.dtype)


def upscale(base: Backbone, supports: int, gamma: float) -> None:
    """Put a larger memory beside that of every RWKV-7 half of ``base``.

    Raises ``CapabilityError`` where a block of it has none, or one that is not the block's own.
    """
    halves = 0
    for block in (module for module in base.modules() if isinstance(module, Block)):
        for half in block.halves():
            if isinstance(half, TimeMix) and type(half).forward is TimeMix.forward:
                half.beside = UpScaled(half.heads, half.config.head_size, supports, gamma)
                half.beside.to(half.w0)
                half.memory = (*half.memory, NAME)
                halves += 1
        block.name_state()
    if not halves:
        raise CapabilityError(
            f"Up-scaling is for RWKV-7, and {type(base).__name__} has none in a block of its own.",
            "supports of 'state_tuned'",
            "Wrap rwkv7, arwkv or a stack with the mixer rwkv7; or leave 'supports' out.",
        )
    if base.memory is not None:
        base.memory = (*base.memory, f".{NAME}")


def upscaled(base: Backbone) -> Iterator[UpScaled]:
    """Yield the larger memories of ``base`` in order."""
    return (module for module in base.modules() if isinstance(module, UpScaled))
