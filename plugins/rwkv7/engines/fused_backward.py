"""``attend`` of attention.py with its backward written out, for training on CPUs.

Checked against ``attention.attend`` and its autograd, in float64 to 1e-12, by
``tests/plugins/test_rwkv7.py::test_the_written_out_backward_is_that_of_the_formula``.

Between the projections there are some thirty elementwise operations. One after another over a
whole batch, each waits for memory; here a slice of the batch goes through all of them, and
through WKV, while it is in the cache. The backward pass computes them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wishbone.kernels.elementwise import DECAY
from wishbone.kernels.precision import compute_dtype
from wishbone.kernels.wkv7.chunked import CHUNK, shorter, slices
from wishbone.kernels.wkv7.rows import Residuals, Rows, scan, scan_backward


class Vectors(NamedTuple):
    """The vectors of time mixing, each [D], heads one after another; r_k is [H, K]."""

    w0: Tensor
    a0: Tensor
    k_k: Tensor
    k_a: Tensor
    r_k: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


def attend_fused(
    projected: tuple[Tensor, ...], vectors: Vectors, wkv: Tensor, mask: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute the same function as ``attention.attend``, for any T > 0."""
    y, after = _Attend.apply(*projected, *vectors, wkv, mask, eps)
    return y, after


class _Attend(torch.autograd.Function):
    """Tensors in the order r, k, v, low_w, low_a, gate, then ``Vectors``, then the state."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        projected, vectors = arguments[:6], Vectors(*arguments[6:13])
        wkv, mask, eps = arguments[13:]
        chunk = shorter(CHUNK, projected[0].shape[1])
        kind = compute_dtype(*projected, wkv)
        out = torch.empty_like(projected[0], memory_format=torch.contiguous_format)
        after = torch.empty(wkv.shape, dtype=kind, device=wkv.device)
        full = Vectors(*(x.to(kind) for x in vectors))
        saved: list[Tensor] = []
        for part in slices(projected[0]):
            piece = _Slice(projected, full, mask, part, chunk, kind)
            with torch.autocast(out.device.type, enabled=False):
                y, residuals = piece.forward(wkv[part].to(kind), eps, out[part], after[part])
            saved += [y, *residuals.tensors()] if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(*projected, *vectors, mask, *saved)
        ctx.chunk, ctx.eps, ctx.wkv_dtype = chunk, eps, wkv.dtype
        return out, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dafter: Tensor) -> tuple[Tensor | None, ...]:
        # Checkpointing hands the tensors out once.
        tensors = ctx.saved_tensors
        projected, vectors = tensors[:6], Vectors(*tensors[6:13])
        mask, saved = tensors[13], tensors[14:]
        kind = dafter.dtype
        full = Vectors(*(x.to(kind) for x in vectors))
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in projected]
        total = Vectors(*(torch.zeros_like(x) for x in full))
        dwkv = torch.empty_like(dafter)
        parts = slices(projected[0])
        per_slice = len(saved) // len(parts)
        for index, part in enumerate(parts):
            y, *residuals = saved[index * per_slice : (index + 1) * per_slice]
            piece = _Slice(projected, full, mask, part, ctx.chunk, kind)
            with torch.autocast(dout.device.type, enabled=False):
                dwkv[part] = piece.backward(
                    y, Residuals(*residuals), dout[part], dafter[part], ctx.eps, grads, total
                )
        dvectors = [x.to(w.dtype) for x, w in zip(total, vectors, strict=True)]
        return (*grads, *dvectors, dwkv.to(ctx.wkv_dtype), None, None)


@dataclass
class _Prepared:
    """The inputs of WKV, rows [chunks, B, H, L, N]."""

    k0: Tensor
    """The key before a changed it."""
    share: Tensor
    """sigmoid of the raw decay, 0 at masked rows' expense: log decay is -DECAY * share."""
    a: Tensor
    scale: Tensor
    """[..., 1] one over the length of k0 * k_k."""
    direction: Tensor
    """k0 * k_k at length 1."""
    factor: Tensor
    """k0 times this is the key that is written."""


class _Slice:
    """Some sequences of the batch."""

    def __init__(
        self,
        projected: tuple[Tensor, ...],
        vectors: Vectors,
        mask: Tensor | None,
        part: slice,
        chunk: int,
        kind: torch.dtype,
    ) -> None:
        heads = vectors.r_k.shape[0]
        self.part, self.kind = part, kind
        self.inputs = [x[part].unflatten(-1, (heads, -1)) for x in projected]
        batch, length, heads, self.size = self.inputs[0].shape
        self.rows = Rows(batch, length, heads, chunk)
        self.device = projected[0].device
        # [H, 1, N] goes with rows [chunks, B, H, L, N].
        self.vectors = Vectors(*(x.view(heads, 1, self.size) for x in vectors))
        # Rows beyond the end have a decay too, unless they are told that nothing is there.
        self.real: Tensor | None = None
        if mask is None and length % chunk:
            mask = torch.ones(1, length, dtype=torch.bool, device=self.device).expand(batch, -1)
        elif mask is not None:
            mask = mask[part]
        if mask is not None:
            shape = (self.rows.count * batch, chunk, 1)
            real = torch.empty(shape, dtype=kind, device=self.device)
            Rows(batch, length, 1, chunk).split(mask[:, :, None, None], real)
            self.real = real.view(self.rows.count, batch, 1, chunk, 1)

    def cut(self, x: Tensor) -> Tensor:
        """Cut x [B, T, H, N] into rows [chunks, B, H, L, N] in the type of the state."""
        shape = (self.rows.total, self.rows.chunk, self.size)
        rows = torch.empty(shape, dtype=self.kind, device=self.device)
        self.rows.split(x, rows)
        return self.rows.unflat(rows)

    def masked_(self, x: Tensor) -> Tensor:
        """Put zeros at masked rows, in place."""
        return x if self.real is None else x.mul_(self.real)

    def prepare(self) -> _Prepared:
        """Compute everything that needs no other position."""
        _, k, _, low_w, low_a, _ = self.inputs
        w = self.vectors
        k0 = self.cut(k)
        share = self.cut(low_w).add_(w.w0).sigmoid_()
        a = self.cut(low_a).add_(w.a0).sigmoid_()
        direction = k0 * w.k_k
        scale = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        scale = scale.clamp_min_(1e-12).reciprocal_()
        factor = torch.addcmul(1 - w.k_a, a, w.k_a)
        return _Prepared(k0, share, a, scale, direction.mul_(scale), factor)

    def forward(
        self, wkv: Tensor, eps: float, out: Tensor, after: Tensor
    ) -> tuple[Tensor, Residuals]:
        """Write the output and the state; return WKV's rows y [n, L, V] and its residuals."""
        r, _, v, _, _, gate = self.inputs
        rows, chunk = self.rows, self.rows.chunk
        p = self.prepare()
        reads, writes = rows.new(after, 2, self.size), rows.new(after, 2, self.size)
        carried = rows.new(after, 2, self.size)
        rows.split(r, reads[:, chunk:])
        rows.split(v, carried[:, :chunk])
        torch.neg(p.direction, out=rows.unflat(reads[:, :chunk]))
        r_rows, k_rows = rows.unflat(reads[:, chunk:]), rows.unflat(writes[:, :chunk])
        b_rows = rows.unflat(writes[:, chunk:])
        self.masked_(torch.mul(p.k0, p.factor, out=k_rows))
        self.masked_(torch.mul(p.direction, p.a, out=b_rows))
        log_decay = self.masked_(p.share.mul_(-DECAY)).flatten(0, 2)
        bonus = (r_rows * k_rows).mul_(self.vectors.r_k).sum(-1, keepdim=True)
        start = wkv.mT.flatten(0, 1).contiguous()
        y, residuals = scan(rows, log_decay, reads, writes, carried, start)
        after.copy_(residuals.after.mT.unflatten(0, (rows.batch, rows.heads)))
        mixed = torch.layer_norm(rows.unflat(y), (self.size,), eps=eps)
        mixed = torch.addcmul(self.vectors.norm_bias, mixed, self.vectors.norm_weight)
        mixed.addcmul_(bonus, rows.unflat(carried[:, :chunk])).mul_(self.cut(gate))
        rows.join(mixed.flatten(0, 2), out.unflatten(-1, (rows.heads, -1)))
        return y, residuals

    def backward(
        self,
        y: Tensor,
        residuals: Residuals,
        dout: Tensor,
        dafter: Tensor,
        eps: float,
        grads: list[Tensor],
        total: Vectors,
    ) -> Tensor:
        """Write the slice's ``grads``, add to ``total``; return the state's [B, H, V, K]."""
        rows, chunk, w = self.rows, self.rows.chunk, self.vectors
        p = self.prepare()
        r, gate = self.cut(self.inputs[0]), self.cut(self.inputs[5])
        v = rows.unflat(residuals.carried[:, :chunk])
        k = self.masked_(p.k0 * p.factor)
        both = r * k
        bonus = (both * w.r_k).sum(-1, keepdim=True)
        normed, mean, spread = torch.native_layer_norm(
            rows.unflat(y), (self.size,), None, None, eps
        )

        # Out: (norm(y) * weight + bias + bonus * v) * gate.
        dmixed = self.cut(dout.unflatten(-1, (rows.heads, -1)))
        dgate = torch.addcmul(w.norm_bias, normed, w.norm_weight).addcmul_(bonus, v).mul_(dmixed)
        dmixed.mul_(gate)
        _add(total.norm_bias, dmixed)
        _add(total.norm_weight, normed.mul_(dmixed))
        dy, _, _ = torch.ops.aten.native_layer_norm_backward(
            dmixed * w.norm_weight, rows.unflat(y), (self.size,), mean, spread, None, None,
            (True, False, False),
        )  # fmt: skip
        dread = rows.new(y, 2, self.size)
        dread[:, chunk:] = dy.flatten(0, 2)
        end = dafter.mT.flatten(0, 1).contiguous()
        grad = scan_backward(rows, residuals, dread, end)

        # Bonus: sum(r * k * r_k) * v.
        dbonus = (dmixed * v).sum(-1, keepdim=True)
        dv = rows.unflat(grad.v).addcmul_(bonus, dmixed)
        _add(total.r_k, both.mul_(dbonus))
        weighted = dbonus * w.r_k
        dr = rows.unflat(grad.reads[:, chunk:]).addcmul_(weighted, k)
        dk = self.masked_(rows.unflat(grad.writes[:, :chunk]).addcmul_(weighted, r))

        # b = direction * a, the row that reads is -direction, k = k0 * (1 + (a - 1) * k_a).
        db = self.masked_(rows.unflat(grad.writes[:, chunk:]))
        dk0 = dk * p.factor
        of_k = dk.mul_(p.k0)
        da = torch.addcmul(db * p.direction, of_k, w.k_a)
        _add(total.k_a, of_k.mul_(p.a - 1))
        turned = db.mul_(p.a).sub_(rows.unflat(grad.reads[:, :chunk]))
        along = (turned * p.direction).sum(-1, keepdim=True)
        turned = turned.addcmul_(p.direction, along, value=-1).mul_(p.scale)
        dk0.addcmul_(turned, w.k_k)
        _add(total.k_k, turned.mul_(p.k0))

        dlow_a = da.mul_(p.a).mul_(1 - p.a)
        dlow_w = rows.unflat(grad.g).mul_(p.share).mul_(1 - p.share).mul_(-DECAY)
        _add(total.a0, dlow_a)
        _add(total.w0, self.masked_(dlow_w))
        for rows_of, gradient in zip((dr, dk0, dv, dlow_w, dlow_a, dgate), grads, strict=True):
            into = gradient[self.part].unflatten(-1, (rows.heads, -1))
            rows.join(rows_of.flatten(0, 2), into)
        return grad.state.mT.unflatten(0, (rows.batch, rows.heads))


def _add(total: Tensor, rows: Tensor) -> None:
    """Add the sum of rows [chunks, B, H, L, N] over all positions to total, of H * N numbers."""
    total += rows.sum((0, 1, 3)).view_as(total)
