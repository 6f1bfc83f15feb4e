"""Stage 1: each mixer of the student learns the outputs of the teacher's mixer in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.contract.layout import IGNORE
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.plugins.distil.capture import capture_mixers, run_mixers
from wishbone.plugins.distil.teacher import WHERE, TeacherFields, TeacherModel

MEASURES = ("distance", "relative")
TINY = 1e-6
"""Least length of a teacher's output that "relative" divides by, so that it is never zero."""


class Align(Objective):
    """Distance between the outputs of both models' mixers on the teacher's hidden vectors.

    For outputs a_l and b_l of student and teacher in layer l of L, D wide, one position's share is
    ``1/L sum_l |b_l - a_l| / sqrt(D)`` (ARWKV, arXiv 2501.15570; the attention wrapper of
    RWKVInside), or with ``measure: relative`` divided by ``|b_l|`` instead, so that a mixer whose
    output is zero scores 1. Every layer gets the teacher's input, so layers learn apart.
    """

    @dataclass
    class Config(TeacherFields):
        """The teacher, and the measure of distance."""

        measure: str = "distance"
        """"distance" as published; "relative" to the length of the teacher's output."""
        inherit: bool = True
        """Begin with everything of the teacher that fits, its tables and head included."""

    def __init__(self, config: Config, model: SpeechLM, system: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` where the mixers of the two are not in pairs."""
        super().__init__(config, model, system)
        if config.measure not in MEASURES:
            raise ConfigError(
                f"There is no measure '{config.measure}'.", WHERE, "Write distance or relative."
            )
        self.teacher = TeacherModel(config, system)
        _check_mixer_pairs(self.teacher.name, self.teacher.model.backbone, model.backbone)
        if config.inherit:
            inherit(model, self.teacher.model)
        train_mixers_only(model)

    def forward(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum over positions of mean distances, and the number of positions."""
        counted = self._counted(targets, mask)
        with torch.no_grad():
            teacher = self.teacher.on(table)
            x = teacher.embed(table, ids)
            inputs, teacher_outputs = capture_mixers(teacher.backbone, x, mask)  # [B, T, D] each
        outputs = run_mixers(self.model.backbone, x, mask, inputs)  # [B, T, D] each
        total = torch.zeros((), dtype=torch.float32, device=table.device)
        for output, target in zip(outputs, teacher_outputs, strict=True):
            total = total + (self._distance(output, target) * counted).sum()
        return total / len(outputs), counted.sum()

    def count(self, targets: Tensor, mask: Tensor) -> Tensor:
        """Count the real positions of sequences that predict anything."""
        return self._counted(targets, mask).sum()

    def shardable(self) -> Sequence[nn.Module]:
        """Return none: no gradient passes through a layer's own output, which would gather it."""
        return ()

    def about(self) -> dict[str, Any]:
        """Return the teacher's name and the hash of its weights."""
        return self.teacher.about()

    def _counted(self, targets: Tensor, mask: Tensor) -> Tensor:
        """targets [B, T, Q], mask [B, T] -> true [B, T] at positions that are compared."""
        return mask & (targets != IGNORE).flatten(1).any(1)[:, None]

    def _distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Outputs [B, T, D] of student and teacher -> their distance [B, T]."""
        target = target.float()  # [B, T, D]
        distance = torch.linalg.vector_norm(output.float() - target, dim=-1)  # [B, T]
        if self.config.measure == "distance":
            return distance * target.shape[-1] ** -0.5
        return distance / torch.linalg.vector_norm(target, dim=-1).clamp_min(TINY)


@torch.no_grad()
def inherit(student: SpeechLM, teacher: SpeechLM) -> None:
    """Copy the tensors of the teacher's backbone, head and tables that fit into the student."""
    student.backbone.inherit(teacher.backbone)
    for name in ("head", "tables"):
        target, source = getattr(student, name).state_dict(), getattr(teacher, name).state_dict()
        for key in target.keys() & source.keys():
            if target[key].shape == source[key].shape:
                target[key].copy_(source[key])


def train_mixers_only(model: SpeechLM) -> None:
    """Freeze the parameters outside of mixers. Those frozen before stay so."""
    inside = {id(p) for mixer in model.backbone.mixers() for p in mixer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside:
            parameter.requires_grad_(False)


def _check_mixer_pairs(name: str, teacher: Backbone, student: Backbone) -> None:
    def refuse(problem: str, do: str) -> None:
        raise ConfigError(problem, WHERE, do)

    for owner, backbone in ((f"teacher '{name}'", teacher), ("student", student)):
        if not backbone.mixers():
            refuse(
                f"The {owner} is a {type(backbone).__name__}, which names no mixers to compare.",
                "Take a backbone that does, or 'objective: {name: logits}', which needs none.",
            )
    if teacher.width != student.width:
        refuse(
            f"The student is {student.width} wide, the teacher '{name}' {teacher.width}.",
            "Give the student the teacher's width, or take 'objective: {name: logits}'.",
        )
    student_mixers, teacher_mixers = len(student.mixers()), len(teacher.mixers())
    if student_mixers != teacher_mixers:
        refuse(
            f"The student has {student_mixers} mixers, the teacher '{name}' {teacher_mixers}.",
            "Give the student as many layers, or take 'objective: {name: logits}'.",
        )
