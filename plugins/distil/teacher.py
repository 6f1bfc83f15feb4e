"""The model to learn from: a trained system that is only ever read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wishbone.core.config.compose import compose, weights_folder
from wishbone.core.contract.errors import ConfigError
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.system.spec import resolve
from wishbone.core.weights.provenance import hash_files

WHERE = "the objective of the training recipe"


@dataclass
class TeacherFields:
    """What every objective with a teacher says of it."""

    teacher: str = ""
    """Name, file or folder of the system to learn from, such as quickstart-transformer."""
    teacher_weights: str | None = None
    """Folder of its weights where the system names none, such as a release's."""
    other_layout: bool = False
    """Whether the teacher may be one of another layout, as long as it has the same tables."""


class Learned:
    """A trained language model in evaluation, its weights frozen; no module, so no parameters."""

    def __init__(self, fields: TeacherFields, system: Mapping[str, Any]) -> None:
        """Read it, and make sure that positions mean the same to it as to the student's ``system``.

        Raises ``ConfigError`` for one without weights or for other tokens, ``CheckpointError``.
        """
        if not fields.teacher:
            raise ConfigError(
                "The objective does not say whom to learn from.",
                WHERE,
                "Write 'teacher: SYSTEM', such as quickstart-transformer.",
            )
        over = {"weights": fields.teacher_weights} if fields.teacher_weights else {}
        self.name = fields.teacher
        config = resolve(compose(fields.teacher, over=over))
        self.weights = config.get("weights") or config["backbone"].get("weights") or ""
        if not self.weights:
            raise ConfigError(
                f"The teacher '{self.name}' has no weights, and would teach noise.",
                WHERE,
                "Give 'teacher_weights: FOLDER', or name an exported system.",
            )
        _check(self.name, config, system, fields.other_layout)
        self.model = build_model(config).eval().requires_grad_(False)

    def on(self, tensor: Tensor) -> SpeechLM:
        """The model, where ``tensor`` is."""
        if self.model.device != tensor.device:
            self.model.to(tensor.device)
        return self.model

    def about(self) -> dict[str, Any]:
        """Which system, and a hash of the files its weights are in."""
        files = sorted(p for p in weights_folder(self.weights).glob("*") if p.suffix in _WEIGHTS)
        return {"teacher": self.name, "teacher_weights": hash_files(files)}


_WEIGHTS = (".safetensors", ".pt")


def _check(
    name: str, config: Mapping[str, Any], system: Mapping[str, Any], other_layout: bool
) -> None:
    slots = ("tokenizer", "speech_tokenizer", "layout")
    differ = [
        f"its {slot} is {config[slot]['name']}, the student's {system[slot]['name']}"
        for slot in slots
        if config[slot]["name"] != system[slot]["name"]
    ]
    if not differ:
        differ = [*_tables(config, system), *([] if other_layout else _fields(config, system))]
    if differ:
        raise ConfigError(
            f"The teacher '{name}' reads other positions than the student: {'; '.join(differ)}.",
            WHERE,
            "Give the student the teacher's tokenizers and layout; other_layout: true accepts"
            " other fields of the layout.",
        )


def _tables(config: Mapping[str, Any], system: Mapping[str, Any]) -> list[str]:
    theirs, mine = (dict(build_layout(each)[1].tables) for each in (config, system))
    return [] if theirs == mine else [f"its tables have the rows {theirs}, the student's {mine}"]


def _fields(config: Mapping[str, Any], system: Mapping[str, Any]) -> list[str]:
    theirs, mine = config["layout"], system["layout"]
    return [
        f"its layout has {key} {theirs.get(key)}, the student's {mine.get(key)}"
        for key in sorted({*theirs, *mine})
        if theirs.get(key) != mine.get(key)
    ]
