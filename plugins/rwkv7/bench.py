"""The forms of WKV-7 as contenders of ``wishbone bench``: forward and backward of one scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.bench.contenders import version_of
from wishbone.core.contract.extensions.contender import Contender, Job, Times
from wishbone.kernels.elementwise import DECAY
from wishbone.kernels.wkv7 import available, wkv7, wkv7_chunked, wkv7_reference

NAMES = ("r", "g", "k", "v", "a", "b")
FORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "best": wkv7,
    "chunked": wkv7_chunked,
    "loop": wkv7_reference,
}
STEADY = 0.02
"""Difference of keys from one another in the input "steady": silence, or a held vowel."""
CHECKED = 2
"""Sequences and heads in the check: more than one, as a wrong stride shows only then."""


@dataclass
class WKVConfig:
    """The form, and the type of its numbers."""

    form: str = "best"
    """best (what a model would use), chunked, loop, or fla for flash-linear-attention."""
    dtype: str = "float32"
    """Type of everything but the state, which is float32 or wider."""
    safe_gate: bool = True
    """For fla: let it rely on the decay's bound, which its tensor cores need."""


class WKV(Contender):
    """Cases ``length N``: one forward and one backward over N positions."""

    Config = WKVConfig

    @classmethod
    def missing(cls, config: WKVConfig, job: Job) -> str:
        """fla and the GPU are optional."""
        if job.device.startswith("cuda") and not torch.cuda.is_available():
            return "no CUDA device is visible"
        if config.form != "fla":
            return "" if config.form in FORMS else f"'{config.form}' is no form of WKV-7"
        if not job.device.startswith("cuda"):
            return "flash-linear-attention runs on a GPU only"
        installed = find_spec("fla") is not None
        return "" if installed else "not installed: pip install flash-linear-attention"

    def load(self) -> dict[str, Any]:
        """Choose the function."""
        torch.set_grad_enabled(True)
        if self.config.form == "fla":
            self.form, version = self._fla(), version_of("flash-linear-attention")
        else:
            self.form, version = FORMS[self.config.form], version_of("wishbone-tts")
        forms = ", ".join(name for name, reason in available().items() if not reason)
        engine = f"best of {forms}" if self.config.form == "best" else self.config.form
        return {"engine": engine, "version": f"{version}, torch {torch.__version__}"}

    def prepare(self, case: str) -> dict[str, Any]:
        """Make the inputs; compile and allocate."""
        self.inputs = getattr(self, "inputs", {})
        length = int(case.partition(" ")[2])
        tensors = self._draw("random", length)
        grown = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
        self.inputs[case] = tensors, grown.to(tensors[0])
        self.run(case, 1)
        return {}

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """The output y, the last state and every gradient, on the inputs that ``way`` names."""
        inputs = self._draw(what["way"], len(what["ids"]), CHECKED)
        y, state = self.form(*inputs)
        gradients = torch.autograd.grad((y * y).sum() + (state * state).sum(), inputs)
        outputs = {"y": y, "state": state} | {
            f"d{name}": gradient for name, gradient in zip(NAMES, gradients, strict=True)
        }
        return {name: tensor.double().flatten().tolist() for name, tensor in outputs.items()}

    def run(self, case: str, count: int) -> Times:
        """Seconds of ``count`` forwards and backwards."""
        inputs, grown = self.inputs[case]
        if self.job.device == "cpu":
            return {"seconds": [self._once(inputs, grown) for _ in range(count)]}
        torch.cuda.synchronize()
        begin = perf_counter()
        for _ in range(count):
            self._once(inputs, grown)
        torch.cuda.synchronize()
        return {"seconds": [(perf_counter() - begin) / count]}

    def _once(self, inputs: list[Tensor], grown: Tensor) -> float:
        begin = perf_counter()
        y, _ = self.form(*inputs)
        torch.autograd.grad(y, inputs, grown)
        return perf_counter() - begin

    def _draw(self, way: str, length: int, most: int = 1 << 20) -> list[Tensor]:
        """r, g, k, v, a, b [B, T, H, N] as a model makes them; the same for every contender.

        "steady": keys that hardly change, and the slowest decay, where inverses lose digits.
        ``most`` limits sequences and heads.
        """
        model = self.job.model
        random = torch.Generator().manual_seed(model.get("seed", 0))
        shape = (min(model["batch"], most), length, min(model["heads"], most), model["size"])
        r, g, k, v, direction, rate = (torch.randn(shape, generator=random) for _ in NAMES)
        g = -DECAY * torch.sigmoid(g)
        if way == "steady":
            g = torch.full_like(g, -1e-3)
            rate = rate + 2
            direction = direction[:, :1] + STEADY * direction
        elif way != "random":
            raise ValueError(f"there is no input '{way}': random, steady")
        direction = F.normalize(direction, dim=-1)
        tensors = [r, g, k, v, -direction, direction * torch.sigmoid(rate)]
        # rounded first, so that the exact form sees the numbers that the others see
        rounded = getattr(torch, model.get("inputs", "float32"))
        kind = getattr(torch, self.config.dtype)
        return [x.to(rounded).to(self.job.device, kind).requires_grad_() for x in tensors]

    def _fla(self) -> Callable[..., tuple[Tensor, Tensor]]:
        from fla.ops.rwkv7 import chunk_rwkv7

        safe = {"safe_gate": True, "chunk_size": 64, "lower_bound": -DECAY - 1e-4}

        def form(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            extra = safe if self.config.safe_gate else {}
            y, state = chunk_rwkv7(*inputs, output_final_state=True, **extra)
            # theirs is [K, V] for each head, ours [V, K]
            return y, state.mT

        return form
