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
_WEIGHTS = (".safetensors", ".pt")
"""Endings of files that hold weights."""


@dataclass
class TeacherFields:
    """The fields of an objective's configuration that name its teacher."""

    teacher: str = ""
    """Name, file or folder of the system to learn from, such as quickstart-transformer."""
    teacher_weights: str | None = None
    """Folder of its weights where the system names none, such as a release's."""
    other_layout: bool = False
    """True lets the teacher's layout have other fields, as long as its tables are the same."""


class TeacherModel:
    """A trained language model in evaluation, its weights frozen; no module, so no parameters."""

    def __init__(self, fields: TeacherFields, system: Mapping[str, Any]) -> None:
        """Load it, and check that it reads the same positions as the student's ``system``.

        Raises ``ConfigError`` for a teacher without weights or of other tokens,
        ``CheckpointError`` for weights that cannot be read.
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
        _check_same_positions(self.name, config, system, fields.other_layout)
        self.model = build_model(config).eval().requires_grad_(False)

    def on(self, tensor: Tensor) -> SpeechLM:
        """Return the model, moved to the device of ``tensor``."""
        if self.model.device != tensor.device:
            self.model.to(tensor.device)
        return self.model

    def about(self) -> dict[str, Any]:
        """Return the name of the system, and a hash of the files its weights are in."""
        files = sorted(p for p in weights_folder(self.weights).glob("*") if p.suffix in _WEIGHTS)
        return {"teacher": self.name, "teacher_weights": hash_files(files)}


def _check_same_positions(
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
    """Name the difference between the tables of teacher and student; empty where there is none."""
    teacher, student = (dict(build_layout(spec)[1].tables) for spec in (config, system))
    if teacher == student:
        return []
    return [f"its tables have the rows {teacher}, the student's {student}"]


def _fields(config: Mapping[str, Any], system: Mapping[str, Any]) -> list[str]:
    """Name the fields of the layouts of teacher and student that differ."""
    teacher, student = config["layout"], system["layout"]
    return [
        f"its layout has {key} {teacher.get(key)}, the student's {student.get(key)}"
        for key in sorted({*teacher, *student})
        if teacher.get(key) != student.get(key)
    ]
