"""The official ``rwkv`` package as a contender."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wishbone.core.bench.contenders import INSTALL, version_of
from wishbone.core.contract.extensions.contender import Contender, Job, Times
from wishbone.core.registry.loader import registry

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.pth"


@dataclass
class RwkvConfig:
    """Configuration of the package ``rwkv``."""

    precision: str = "fp32"
    """fp32, bf16 or fp16, as in its strategy strings."""


class Rwkv(Contender):
    """Cases ``step`` and ``prefill N``; TorchScript, as the package does by default."""

    Config = RwkvConfig
    distributions = ("rwkv",)

    @classmethod
    def missing(cls, config: RwkvConfig, job: Job) -> str:
        """Say so where the package is not installed."""
        return "" if find_spec("rwkv") else f"the package 'rwkv' is not installed: {INSTALL}"

    @classmethod
    def files(cls, config: RwkvConfig) -> tuple[str, ...]:
        """One file in RWKV-LM's format."""
        return (FILE,)

    @classmethod
    def write_file(
        cls, path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> None:
        """Convert the suite's weights to RWKV-LM's names."""
        registry().get("converter", "rwkv-lm")().write(tensors, config, path)

    def load(self) -> dict[str, Any]:
        """Read the ``.pth`` through the package's own loader."""
        # both are read when the package is imported
        os.environ["RWKV_V7_ON"] = os.environ["RWKV_JIT_ON"] = "1"
        os.environ["RWKV_CUDA_ON"] = "0"
        import torch
        from rwkv.model import RWKV

        file = Path(self.job.weights) / FILE
        device = self.job.device.partition(":")[0]
        self.model = RWKV(str(file.with_suffix("")), f"{device} {self.config.precision}")
        self.vocabulary = self.job.model["vocabulary"]
        random = torch.Generator().manual_seed(1)
        self.ids = torch.randint(self.vocabulary, (4096,), generator=random).tolist()
        self.at, self.state = 0, None
        weights = [t for name, t in self.model.z.items() if name != "emb.weight"]
        state = sum(t.numel() * t.element_size() for t in self.model.generate_zero_state())
        return {
            "engine": "TorchScript",
            "version": f"rwkv {version_of('rwkv')}, torch {torch.__version__}",
            "step_bytes": sum(t.numel() * t.element_size() for t in weights) + 2 * state,
        }

    def prepare(self, case: str) -> dict[str, Any]:
        """Let TorchScript optimise: it does so in its first calls."""
        self.run(case, 3)
        return {}

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return the logits [X] after ``ids``."""
        if what["way"] == "prefill":
            logits, _ = self.model.forward(list(what["ids"]), None)
            return {"logits": logits.float().tolist()}
        state = None
        for position in what["ids"]:
            logits, state = self.model.forward([position], state)
        return {"logits": logits.float().tolist()}

    def run(self, case: str, count: int) -> Times:
        """Time ``count`` steps after one that is not counted, or ``count`` prefills."""
        kind, _, number = case.partition(" ")
        if kind == "prefill":
            return {"seconds": [self._prefill(self.ids[: int(number)]) for _ in range(count)]}
        self._step()
        return {"seconds": [self._step() for _ in range(count)]}

    def _prefill(self, ids: list[int]) -> float:
        begin = perf_counter()
        self.model.forward(ids, None)
        return perf_counter() - begin

    def _step(self) -> float:
        self.at = (self.at + 1) % len(self.ids)
        begin = perf_counter()
        _, self.state = self.model.forward([self.ids[self.at]], self.state)
        return perf_counter() - begin
