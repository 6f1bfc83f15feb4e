"""A linear layer with a low-rank difference that some rows of a batch take and others do not.

PiSSA (arXiv:2404.02948, equations 2 to 4), with W left as it is, not replaced by its residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.errors import CapabilityError
from wishbone.plugins.peft.layers import principal_factors


@dataclass
class Route:
    """The rows of the current batch that take the difference; one for all layers of a backbone."""

    rows: Tensor | None = None
    """[B] true where it is taken; None where ``all`` says it of every row."""
    all: bool = True


class PissaLinear(nn.Linear):
    """y = W x + B A x - B0 A0 x, which is (W - B0 A0) x + B A x: PiSSA on an unchanged base.

    ``weight`` is the base's own parameter, which nothing here writes to. B0 and A0 are the
    principal factors of W when training began, B [out, r] and A [r, in] the trained ones. Until
    ``split`` all of them are 0.
    """

    def __init__(self, linear: nn.Linear, rank: int, route: Route) -> None:
        out, into = linear.weight.shape
        super().__init__(into, out, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.rank, self.route = rank, route
        blank = linear.weight.detach()
        self.A = nn.Parameter(blank.new_zeros(rank, into))  # [r, in]
        self.B = nn.Parameter(blank.new_zeros(out, rank))  # [out, r]
        self.register_buffer("A0", blank.new_zeros(rank, into))  # [r, in]
        self.register_buffer("B0", blank.new_zeros(out, rank))  # [out, r]

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ..., in] -> [B, ..., out]."""
        plain = F.linear(x, self.weight, self.bias)  # [B, ..., out]
        rows, everyone = self.route.rows, self.route.all
        if rows is None:
            return plain + self._difference(x) if everyone else plain  # [B, ..., out]
        if len(rows) != len(x):
            raise CapabilityError(
                f"A batch of {len(rows)} rows in both modes reached a layer as {len(x)} rows.",
                "the backbone that PiSSA wraps",
                "Send text and speech in batches of their own.",
            )
        # rows of text keep the very numbers of the plain product
        adapted = rows.view(-1, *[1] * (plain.ndim - 1))  # [B, 1, ...]
        return torch.where(adapted, plain + self._difference(x), plain)  # [B, ..., out]

    def merged(self) -> nn.Linear:
        """Make a plain layer that computes what every row with the difference gets."""
        return _plain(self, self.weight.detach() + self.difference())  # [out, in]

    def plain(self) -> nn.Linear:
        """Make the base's layer again, on the same memory."""
        return _plain(self, self.weight)

    @torch.no_grad()
    def difference(self) -> Tensor:
        """Compute the difference [out, in] that is added to W, of rank 2 r at most."""
        return _product(self.B, self.A) - _product(self.B0, self.A0)  # [out, in]

    @torch.no_grad()
    def split(self, iterations: int = 0) -> None:
        """Set A and B to the principal factors of W: B = U S^1/2, A = S^1/2 V^T.

        ``iterations`` > 0 finds them by that many power iterations, which is quick for large
        matrices; 0 by a full decomposition. In float32 at least.
        """
        if iterations:
            exact = torch.promote_types(self.weight.dtype, torch.float32)
            matrix = self.weight.detach().to(exact)  # [out, in]
            # u [out, r], values [r], v [in, r]
            u, values, v = torch.svd_lowrank(matrix, self.rank, niter=iterations)
            root = values.sqrt()  # [r]
            narrow, wide = root[:, None] * v.mT, u * root  # [r, in], [out, r]
        else:
            narrow, wide = principal_factors(self.weight.detach(), self.rank, 1.0)
        self.A.copy_(narrow)
        self.B.copy_(wide)
        self.A0.copy_(self.A)
        self.B0.copy_(self.B)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A' [2 r, in] and B' [out, 2 r] with B' A' = B A - B0 A0; r where B0 A0 is 0."""
        if not self.A0.any():
            return self.A.detach(), self.B.detach()
        narrow = torch.cat((self.A.detach(), self.A0))  # [2 r, in]
        wide = torch.cat((self.B.detach(), -self.B0), 1)  # [out, 2 r]
        return narrow, wide

    @torch.no_grad()
    def start_from(self, narrow: Tensor, wide: Tensor) -> None:
        """Start from the difference wide [out, r] narrow [r, in], a LoRA, and split nothing off."""
        self.A.copy_(narrow)
        self.B.copy_(wide)
        self.A0.zero_()
        self.B0.zero_()

    def _difference(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]: B A x - B0 A0 x, as one product of rank 2 r."""
        narrow = torch.cat((self.A, self.A0))  # [2 r, in]
        wide = torch.cat((self.B, -self.B0), 1)  # [out, 2 r]
        return F.linear(F.linear(x, narrow), wide)  # [..., out]


def _product(wide: Tensor, narrow: Tensor) -> Tensor:
    return wide.detach() @ narrow.detach()  # [out, in]


def _plain(layer: PissaLinear, weight: Tensor) -> nn.Linear:
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = layer.bias
    return linear
