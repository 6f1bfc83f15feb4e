"""llama.cpp as a contender, through the low-level calls of ``llama-cpp-python``.

Its high-level class copies the logits of every position into an array of its own; a comparison
with that would be a comparison with the copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wishbone.core.bench.contenders import INSTALL, version_of
from wishbone.core.contract.extensions.contender import Contender, Job, Times
from wishbone.core.registry.loader import registry
from wishbone.plugins.bench_peers.gguf import write_gguf

if TYPE_CHECKING:
    from torch import Tensor

UNIT = 512
"""Positions llama.cpp computes at once when it prefills, its own default."""


@dataclass
class LlamaConfig:
    """Configuration of llama.cpp."""

    file: str = "f32"
    """f32, f16 or q8_0: how the GGUF file stores matrices."""


class LlamaCpp(Contender):
    """Cases ``step`` and ``prefill N``."""

    Config = LlamaConfig
    distributions = ("llama-cpp-python", "gguf")

    @classmethod
    def missing(cls, config: LlamaConfig, job: Job) -> str:
        """Name what is not installed: the package itself, or the one that writes its files."""
        if job.device != "cpu":
            return "only measured on the CPU"
        packages = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}
        absent = [name for module, name in packages.items() if not find_spec(module)]
        return f"{' and '.join(absent)} not installed: {INSTALL}" if absent else ""

    @classmethod
    def files(cls, config: LlamaConfig) -> tuple[str, ...]:
        """One GGUF file for each type of matrices."""
        return (f"model-{config.file}.gguf",)

    @classmethod
    def write_file(
        cls, path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> None:
        """Write the suite's weights as GGUF, by way of RWKV-LM's names."""
        converter = registry().get("converter", "rwkv-lm")()
        write_gguf(path, converter.theirs(tensors), path.stem.rpartition("-")[2])

    def load(self) -> dict[str, Any]:
        """Read the GGUF file and make a context for one sequence."""
        import llama_cpp as lib

        self.lib = lib
        lib.llama_backend_init()
        options = lib.llama_model_default_params()
        options.n_gpu_layers = 0
        file = Path(self.job.weights) / self.files(self.config)[0]
        self.model = lib.llama_model_load_from_file(str(file).encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot read {file.name}")
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = UNIT
        options.n_seq_max = 1
        options.n_threads = options.n_threads_batch = self.job.threads
        options.no_perf = True
        self.context = lib.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context for this model")
        self.vocabulary = self.job.model["vocabulary"]
        random = Random(1)
        self.ids = [random.randrange(self.vocabulary) for _ in range(4096)]
        self.at = 0
        return {
            "engine": "llama.cpp",
            "features": lib.llama_print_system_info().decode().strip(" |"),
            "version": f"llama-cpp-python {version_of('llama-cpp-python')}",
            "step_bytes": _step_bytes(file),
        }

    def prepare(self, case: str) -> dict[str, Any]:
        """Touch everything once."""
        self.run(case, 2)
        return {}

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return the logits [X] after ``ids``."""
        self._forget()
        ids = list(what["ids"])
        if what["way"] == "prefill":
            self._decode(ids)
        else:
            for position in ids:
                self._decode([position])
        return {"logits": self._logits()}

    def run(self, case: str, count: int) -> Times:
        """Time ``count`` steps after one that is not counted, or ``count`` prefills."""
        kind, _, number = case.partition(" ")
        if kind == "prefill":
            return {"seconds": [self._prefill(self.ids[: int(number)]) for _ in range(count)]}
        # a context counts positions up to its length, though the state of an RWKV has none
        self._forget()
        self._step()
        return {"seconds": [self._step() for _ in range(count)]}

    def _prefill(self, ids: list[int]) -> float:
        self._forget()
        begin = perf_counter()
        for start in range(0, len(ids), UNIT):
            self._decode(ids[start : start + UNIT])
        self.lib.llama_get_logits_ith(self.context, -1)
        return perf_counter() - begin

    def _step(self) -> float:
        self.at = (self.at + 1) % len(self.ids)
        ids = [self.ids[self.at]]
        begin = perf_counter()
        self._decode(ids)
        self.lib.llama_get_logits_ith(self.context, -1)
        return perf_counter() - begin

    def _decode(self, ids: list[int]) -> None:
        """Put ids through; only the last one's logits are made."""
        tokens = (self.lib.llama_token * len(ids))(*ids)
        code = self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids)))
        if code:
            raise RuntimeError(f"llama_decode answered {code}")

    def _logits(self) -> list[float]:
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return [logits[i] for i in range(self.vocabulary)]

    def _forget(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)


def _step_bytes(file: Path) -> int:
    """Return the bytes that a step reads of the weights, and reads and writes of the state."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    weights = sum(int(t.n_bytes) for t in reader.tensors if t.name != "token_embd.weight")
    width, size, blocks = (
        int(reader.fields[f"rwkv7.{key}"].contents())
        for key in ("embedding_length", "wkv.head_size", "block_count")
    )
    return weights + 2 * 4 * blocks * (width * size + 2 * width)
