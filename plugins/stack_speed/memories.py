"""The scans of memories as contenders of ``wishbone bench``: forward and backward of one scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.extensions.contender import Job
from wishbone.kernels.linear_scan import linear_scan, linear_scan_reference, rows
from wishbone.kernels.recurrence import CHUNK, available, recurrence, recurrence_reference
from wishbone.plugins.rwkv7.bench import CHECKED, WKV

CLASSES = ("none", "head", "channel", "none+delta", "head+delta", "channel+delta", "vector")
"""Decays of matrix memories with and without a correction, and a memory that is a vector."""
STRONGEST = 8.0
"""Least logarithm of a decay, with a minus; most are far above."""


@dataclass
class MemoriesConfig:
    """The form, and the type of its numbers."""

    form: str = "best"
    """best (what a model would use), torch (PyTorch's operations in chunks) or loop."""
    dtype: str = "float32"
    """Type of everything but the state, which is float32 or wider."""


class Memories(WKV):
    """Cases ``CLASS N``, such as ``head+delta 4096``: one forward and one backward."""

    Config = MemoriesConfig

    @classmethod
    def missing(cls, config: MemoriesConfig, job: Job) -> str:
        """A GPU is needed where one is asked for."""
        if job.device.startswith("cuda") and not torch.cuda.is_available():
            return "no CUDA device is visible"
        known = ("best", "torch", "loop")
        return "" if config.form in known else f"'{config.form}' is none of {', '.join(known)}"

    def load(self) -> dict[str, Any]:
        """Nothing is chosen before the class is known."""
        torch.set_grad_enabled(True)
        forms = ", ".join(name for name, reason in available().items() if not reason)
        engine = f"best of {forms}" if self.config.form == "best" else self.config.form
        return {"engine": engine, "version": f"torch {torch.__version__}"}

    def prepare(self, case: str) -> dict[str, Any]:
        """Make the inputs; compile and allocate."""
        self.inputs = getattr(self, "inputs", {})
        name, _, length = case.partition(" ")
        tensors = self._draw(name, int(length))
        y, _ = self.form(*tensors)
        grown = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        self.inputs[case] = tensors, grown.to(y)
        self.run(case, 1)
        return {}

    def form(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the number of tensors and the axes of the fourth say."""
        name = self.config.form
        if len(tensors) == 2:
            scan = {"best": linear_scan, "loop": linear_scan_reference, "torch": _rows}[name]
            h = scan(*tensors)  # [B, T, C]
            return h, h[:, -1]
        read, key, value, *others = tensors
        g = others.pop(0) if len(others) % 2 else None
        a, b = others or (None, None)
        if name == "loop":
            return recurrence_reference(read, key, value, g, a, b)
        # a chunk that is asked for is computed by PyTorch's operations
        chunk = CHUNK["channel"] if name == "torch" else 0
        return recurrence(read, key, value, g, a, b, chunk=chunk)

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """The output, the last state and every gradient, of the class that ``way`` names."""
        inputs = self._draw(what["way"], len(what["ids"]), CHECKED)
        y, state = self.form(*inputs)
        gradients = torch.autograd.grad((y * y).sum() + (state * state).sum(), inputs)
        outputs = {"y": y, "state": state}
        outputs |= {f"d{number}": gradient for number, gradient in enumerate(gradients)}
        return {name: tensor.double().flatten().tolist() for name, tensor in outputs.items()}

    def _draw(self, way: str, length: int, most: int = 1 << 20) -> list[Tensor]:
        """r, k, v, then g and a, b where the class has them; a and b of a vector memory."""
        if way not in CLASSES:
            raise ValueError(f"there is no class '{way}': {', '.join(CLASSES)}")
        model = self.job.model
        random = torch.Generator().manual_seed(model.get("seed", 0))
        shape = (min(model["batch"], most), length, min(model["heads"], most), model["size"])
        r, k, v, direction, rate, g = (torch.randn(shape, generator=random) for _ in range(6))
        decay, _, delta = way.partition("+")
        if decay == "vector":
            tensors = [rate.sigmoid().flatten(2), v.flatten(2)]
        else:
            g = -STRONGEST * torch.sigmoid(2 * g - 4)
            tensors = [r, k * shape[-1] ** -0.5, v]
            if decay != "none":
                tensors.append(g if decay == "channel" else g[..., 0].contiguous())
            if delta:
                direction = F.normalize(direction, dim=-1)
                tensors += [-direction, direction * rate.sigmoid()]
        # rounded first, so that the exact form sees the numbers that the others see
        rounded = getattr(torch, model.get("inputs", "float32"))
        kind = getattr(torch, self.config.dtype)
        return [x.to(rounded).to(self.job.device, kind).requires_grad_() for x in tensors]


class _Rows(torch.autograd.Function):
    """``linear_scan`` from zeros by PyTorch's operations, also on a GPU."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        kind = torch.float64 if b.dtype == torch.float64 else torch.float32
        h = rows.scan(a.to(kind), b.to(kind), torch.zeros_like(b[:, 0], dtype=kind))  # [B, T, C]
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors  # [B, T, C]
        db = rows.scan_back(a.to(h.dtype), dh)  # [B, T, C]
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)  # [B, T, C]
        return (db * before).to(a.dtype), db.to(a.dtype)


_rows: Callable[..., Tensor] = _Rows.apply
