"""Our language model as a contender: a backbone between two tables, one stream or a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.bench.contenders import available_bytes, resident_bytes
from wishbone.core.config.compose import Config
from wishbone.core.config.schema import structured
from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.extensions.contender import Contender, Job, Times
from wishbone.core.contract.head import Head
from wishbone.core.contract.part import Size
from wishbone.core.evaluate.measure.speed import clocked
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.registry.loader import registry
from wishbone.core.testing.common import trained_looking_
from wishbone.core.weights.tensor_files import read_tensors, write_tensors

SMALLEST_RANK = 8
"""Narrower side of a matrix from which on it counts as one of a layer's low-rank factors."""
LONG = 2048
"""Context from which on the positions that rounds add are too few to be cut back."""
ROOM = 3.0
"""Multiple of its size that a state may need while it is built and moved."""
PREFILLED = 256
"""Positions really put through a backbone of constant state before its steps are timed."""
FOREVER = 1 << 60
FILE = "model.safetensors"
TABLES = {"table.weight": "tables.embedding", "output.weight": "tables.head"}
"""Tensor of the plain head -> its name in the file of weights."""
FASTEST = ("graph", "native", "auto")
"""Engines in the order in which "best" asks for them. Unlike "auto" it waits for a compiler."""


@dataclass
class WishboneConfig:
    """A language model of Wishbone and how it computes."""

    engine: str = "best"
    """Argument of ``accelerate`` of backbone and head; "best" tries all of ``FASTEST``."""
    weights: str = "float32"
    """Argument of ``Backbone.accelerate``."""
    prefill: str = "float32"
    """Type of the matrix products when many positions go in at once: float32 or bfloat16."""
    backbone: dict[str, Any] = field(default_factory=dict)
    """Slot of the backbone; empty means the suite's ``model.backbone``."""
    batch: Size = 1
    """Sequences that step together."""


class Wishbone(Contender):
    """Cases ``step``, ``prefill N`` and ``context N``, N in positions."""

    Config = WishboneConfig

    @classmethod
    def missing(cls, config: WishboneConfig, job: Job) -> str:
        """Say so where a GPU is asked for and none is visible."""
        if job.device.startswith("cuda") and not torch.cuda.is_available():
            return "no CUDA device is visible"
        return ""

    @classmethod
    def files(cls, config: WishboneConfig) -> tuple[str, ...]:
        """One file in Wishbone's format."""
        return (FILE,)

    @classmethod
    def write_file(
        cls, path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> None:
        """Write the tensors as they are."""
        write_tensors(path, tensors)

    @torch.inference_mode()
    def load(self) -> dict[str, Any]:
        """Build, read weights, choose the engine."""
        slot = self.config.backbone or self.job.model["backbone"]
        random = torch.Generator().manual_seed(1)
        shape = (4096, self.config.batch, 1, 1)
        self.ids = torch.randint(self.job.model["vocabulary"], shape, generator=random)
        self.ids = self.ids.to(self.job.device)
        self.position = 0
        self.backbone, self.head = build(self.job, slot)
        engine, weights = self.config.engine, self.config.weights
        self.engine = accelerated(self.backbone, engine, weights)
        head_engine = accelerated_head(self.head, engine, weights)
        self.backbone_dtype = next(self.backbone.parameters()).dtype
        self.states: dict[str, State] = {}
        self.initial: dict[str, State] = {}
        self.steps_left: dict[str, int] = {}
        self.initial["step"] = self.states["step"] = self._first()
        self.steps_left["step"] = FOREVER
        return {
            "engine": ", head ".join(dict.fromkeys((self.engine, head_engine))),
            "version": f"torch {torch.__version__}",
            "parameters": sum(p.numel() for p in self.backbone.parameters()),
            "step_bytes": self._step_bytes(),
            "batch": self.config.batch,
        }

    @torch.inference_mode()
    def prepare(self, case: str) -> dict[str, Any]:
        """Fill the state of ``context N``; cast matrices for ``prefill N``; warm up either."""
        kind, _, number = case.partition(" ")
        before = resident_bytes()
        facts: dict[str, Any] = {}
        if kind == "context":
            facts["state_bytes"] = self.config.batch * self.backbone.state_bytes(int(number))
            _need_room(ROOM * facts["state_bytes"], self.job.device)
            state = grown(self.backbone, int(number), self.config.batch)
            if int(number) < LONG:
                self.initial[case], self.steps_left[case] = state, 0
            else:
                self.states[case], self.steps_left[case] = state, FOREVER
            del state
        if kind == "prefill" and self.config.prefill == "bfloat16" and self.engine != "native":
            # autocast would cast them again in every call; the C++ engine has copies of its own
            for module in self.backbone.modules():
                if isinstance(module, nn.Linear):
                    module.weight.data = module.weight.data.bfloat16()
        self.run(case, 1)
        return facts | {"resident_bytes": resident_bytes() - before}

    @torch.inference_mode()
    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return logits [X] after ``ids``, by single steps or (way "prefill") in one call."""
        ids = torch.tensor(what["ids"], device=self.job.device)
        if what["way"] == "prefill":
            return {"logits": self._prefill(ids[None, :, None]).flatten().tolist()}
        state = self._first()
        for position in ids.tolist():
            step_ids = torch.full((self.config.batch, 1, 1), position, device=self.job.device)
            logits = self._step(step_ids, state)
        return {"logits": logits.flatten(1)[0].tolist()}

    @torch.inference_mode()
    def run(self, case: str, count: int) -> Times:
        """Time ``count`` steps after one that is not counted, or ``count`` prefills."""
        kind, _, number = case.partition(" ")
        if kind == "prefill":
            ids = self.ids[: int(number)].reshape(1, -1, 1)[:, : int(number)]
            return {"seconds": self._times(count, lambda: self._prefill(ids))}
        if self.steps_left[case] < count + 1:
            # a fork of the dictionary; steps never change the tensors of another holder
            self.states[case] = dict(self.initial[case])
            self.steps_left[case] = max(int(number) // 8, count + 1)
        self.steps_left[case] -= count + 1
        state = self.states[case]
        self._step(self._next(), state)
        if self.job.device != "cpu":
            # all at once, as waiting after each would be part of it

            def steps() -> None:
                for _ in range(count):
                    self._step(self._next(), state)

            return {"seconds": [clocked(steps, self.job.device) / count]}
        return {"seconds": self._times(count, lambda: self._step(self._next(), state))}

    def _first(self) -> State:
        return self.backbone.init_state(self.config.batch, device=self.job.device)

    def _next(self) -> Tensor:
        self.position = (self.position + 1) % len(self.ids)
        return self.ids[self.position]

    def _step(self, ids: Tensor, state: State) -> Tensor:
        """ids [B, 1, 1] -> logits [B, 1, X]; one stream goes through the head as a vector [D]."""
        vectors = self.head.embed(ids)  # [B, 1, D]
        hidden = self.backbone.step_(vectors.to(self.backbone_dtype), state)  # [B, 1, D]
        hidden = hidden.to(vectors.dtype)  # [B, 1, D]
        return self.head(hidden[0, 0])[None] if len(ids) == 1 else self.head(hidden[:, 0])

    def _prefill(self, ids: Tensor) -> Tensor:
        """ids [1, T, 1] -> logits [1, X] of the last position."""
        kind = torch.device(self.job.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.prefill == "bfloat16"):
            vectors = self.head.embed(ids)  # [1, T, D]
            hidden, _ = self.backbone(vectors.to(self.backbone_dtype))  # [1, T, D]
        return self.head(hidden[0, -1].to(vectors.dtype)).float()  # [1, X]

    def _times(self, count: int, work: Callable[[], Tensor]) -> list[float]:
        return [clocked(work, self.job.device) for _ in range(count)]

    def _step_bytes(self) -> int:
        """Return the bytes that a step reads of the weights, and reads and writes of the state."""
        # of the table of embeddings a step reads one row
        tables = {id(m.weight) for m in self.head.modules() if isinstance(m, nn.Embedding)}
        weights = [*self.backbone.named_parameters(), *self.head.named_parameters()]
        weights = [(name, p) for name, p in weights if id(p) not in tables]
        matrices = [p for name, p in weights if p.ndim > 1 and name.endswith(".weight")]
        factors = [p for name, p in weights if not name.endswith(".weight") and self._is_factor(p)]
        wide, low = (sum(p.numel() for p in part) for part in (matrices, factors))
        vectors = sum(p.numel() for _, p in weights) - wide - low
        rows = sum(len(p) for p in matrices)
        size = {
            "float32": 4 * (wide + low),
            "bfloat16": 2 * (wide + low),
            # eight bits are too few for low-rank factors; they are read in sixteen
            "int8": wide + 4 * rows + 2 * low,
        }
        state = 2 * self.config.batch * self.backbone.state_bytes(0)
        return size[self.config.weights] + 4 * vectors + state

    def _is_factor(self, weight: Tensor) -> bool:
        """Tell a low-rank factor [D, R] or [R, D] from a few vectors [N, D] in one tensor."""
        matrix = weight.ndim == 2 and self.backbone.width in weight.shape
        return matrix and min(weight.shape) >= SMALLEST_RANK


def _need_room(size: float, device: str) -> None:
    """Raise ``MemoryError`` before the system runs out, which would end some other process."""
    free = torch.cuda.mem_get_info()[0] if device != "cpu" else available_bytes()
    if free and size > free:
        raise MemoryError(f"it needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")


def accelerated(part: Backbone | Head, engine: str, weights: str) -> str:
    """Ask ``part`` for an engine -> the one it uses. Raises ``CapabilityError`` where none is."""
    if engine != "best":
        return part.accelerate(engine, weights)
    for candidate in FASTEST[:-1]:
        try:
            return part.accelerate(candidate, weights)
        except CapabilityError:
            continue
    return part.accelerate(FASTEST[-1], weights)


def accelerated_model(model: SpeechLM, engine: str, weights: str) -> dict[str, Any]:
    """Ask both parts of ``model`` for an engine -> facts of a contender: engine, version, size."""
    names = [accelerated(part, engine, weights) for part in (model.backbone, model.head)]
    return {
        "engine": ", head ".join(dict.fromkeys(names)),
        "version": f"torch {torch.__version__}",
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def accelerated_head(head: Head, engine: str, weights: str) -> str:
    """Do as ``accelerated``; a head without that engine is plain PyTorch, cast to sixteen bits.

    A backbone's CUDA graph, for one, stands beside a head that is a single product.
    """
    try:
        return accelerated(head, engine, weights)
    except CapabilityError:
        if weights == "int8":
            raise
        if weights == "bfloat16":
            head.bfloat16()
        return "eager"


def build(job: Job, slot: Mapping[str, Any]) -> tuple[Backbone, Head]:
    """Build the backbone of ``slot`` and a plain head, in evaluation mode on the job's device.

    Their weights are the suite's file where it has one, else random ones that look trained.
    """
    fields = {key: value for key, value in slot.items() if key != "name"}
    kind = registry().get("backbone", slot["name"])
    config = structured(kind.Config, fields, "model.backbone", Config({}))
    plain = registry().get("head", "linear")
    codes = CodeSpace(size=job.model["vocabulary"], rate=25.0)
    with torch.device("meta" if job.weights else "cpu"):
        backbone = kind(config)
        head = plain(plain.Config(), width=backbone.width, codes=codes, extra=0)
    if job.weights:
        tensors = dict(read_tensors(Path(job.weights) / FILE))
        tables = {name: tensors.pop(source) for name, source in TABLES.items()}
        head.load_state_dict(tables, assign=True)
        backbone.load_state_dict(tensors, assign=True)
    else:
        trained_looking_(backbone, job.model["seed"])
    for module in (backbone, head):
        module.to(job.device).eval().requires_grad_(False)
    return backbone, head


def random_weights(model: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Make weights that look trained, with the tables ``tables.embedding`` and ``tables.head``.

    ``model`` holds the slot of the backbone, the size of the vocabulary and a seed; the tables
    are [X, D]. Also returns the backbone's configuration. The same seed gives the same weights
    everywhere.
    """
    torch.manual_seed(model["seed"])
    backbone, _ = build(Job({**model, "vocabulary": 2}), model["backbone"])
    random = torch.Generator().manual_seed(model["seed"])
    shape = (model["vocabulary"], backbone.width)
    tensors = backbone.state_dict()
    tensors["tables.embedding"] = torch.randn(shape, generator=random)  # [X, D]
    # logits of about one, as a norm stands before the table
    scale = backbone.width**-0.5
    tensors["tables.head"] = torch.randn(shape, generator=random) * scale  # [X, D]
    return tensors, dict(vars(backbone.config))


def grown(backbone: Backbone, length: int, batch: int = 1) -> State:
    """Return the state ``length`` positions in, without going there.

    A state of constant size is the true one after ``PREFILLED`` positions: its numbers do not
    change what a step costs. Of a growing one, how two and three positions differ tells which
    axis grows and by how much; it is filled with random numbers of the same spread.
    """
    weight = next(backbone.parameters())
    random = torch.Generator().manual_seed(length)

    def after(count: int) -> State:
        x = torch.randn(batch, count, backbone.width, generator=random).to(weight)
        return backbone(x)[1]

    if backbone.caps.constant_state:
        return after(min(length, PREFILLED))
    two, three = after(2), after(3)
    return {name: _longer(two[name], three[name], length - 2, random) for name in two}


def _longer(two: Tensor, three: Tensor, more: int, random: torch.Generator) -> Tensor:
    """Grow ``two`` by ``more`` times the step that leads from it to ``three``."""
    if two.shape == three.shape:
        return two + (three - two) * more if not two.is_floating_point() else two
    size = [a + (b - a) * more for a, b in zip(two.shape, three.shape, strict=True)]
    spread = float(three.std())
    return torch.randn(size, generator=random, dtype=torch.float32).mul_(spread).to(three)
