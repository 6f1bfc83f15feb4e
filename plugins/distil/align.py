"""Stage 1: each mixer of the student learns to answer as the teacher's mixer in its place does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.objective import Objective
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.plugins.distil.listen import answers, heard
from wishbone.plugins.distil.teacher import WHERE, Learned, TeacherFields

MEASURES = ("distance", "relative")
TINY = 1e-6
"""Least length of a teacher's answer as "relative" sees it: it never divides by nothing."""


class Align(Objective):
    """Distance between the mixers' answers, the teacher's hidden vectors being asked of both.

    For answers a_l and b_l of student and teacher in layer l of L, D wide, one position's share is
    ``1/L sum_l |b_l - a_l| / sqrt(D)`` (ARWKV, arXiv 2501.15570; the attention wrapper of
    RWKVInside), or with ``measure: relative`` divided by ``|b_l|`` instead, so that 1 is what a
    silent mixer scores. Every layer hears what the teacher's heard, so layers learn apart.
    """

    @dataclass
    class Config(TeacherFields):
        """Whom to learn from, and how the distance is measured."""

        measure: str = "distance"
        """"distance" as published; "relative" to the length of the teacher's answer."""
        inherit: bool = True
        """Begin with everything of the teacher that fits, its tables and head included."""

    def __init__(self, config: Config, model: SpeechLM, system: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` where the mixers of the two are not in pairs."""
        super().__init__(config, model, system)
        if config.measure not in MEASURES:
            raise ConfigError(
                f"There is no measure '{config.measure}'.", WHERE, "Write distance or relative."
            )
        self.teacher = Learned(config, system)
        _check(self.teacher.name, self.teacher.model.backbone, model.backbone)
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
            inputs, wanted = heard(teacher.backbone, x, mask)
        given = answers(self.model.backbone, x, mask, inputs)
        total = torch.zeros((), dtype=torch.float32, device=table.device)
        for mine, theirs in zip(given, wanted, strict=True):
            total = total + (self._distance(mine, theirs) * counted).sum()
        return total / len(wanted), counted.sum()

    def count(self, targets: Tensor, mask: Tensor) -> Tensor:
        """Real positions of sequences that predict anything."""
        return self._counted(targets, mask).sum()

    def shardable(self) -> Sequence[nn.Module]:
        """None apart: no gradient passes through a layer's own output, which would gather it."""
        return ()

    def about(self) -> dict[str, Any]:
        """Of the teacher."""
        return self.teacher.about()

    def _counted(self, targets: Tensor, mask: Tensor) -> Tensor:
        return mask & (targets != IGNORE).flatten(1).any(1)[:, None]

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """mine and theirs [B, T, D] -> [B, T]."""
        theirs = theirs.float()
        distance = torch.linalg.vector_norm(mine.float() - theirs, dim=-1)
        if self.config.measure == "distance":
            return distance * theirs.shape[-1] ** -0.5
        return distance / torch.linalg.vector_norm(theirs, dim=-1).clamp_min(TINY)


@torch.no_grad()
def inherit(student: SpeechLM, teacher: SpeechLM) -> None:
    """Give the student's backbone, head and tables what fits of the teacher's."""
    student.backbone.inherit(teacher.backbone)
    for name in ("head", "tables"):
        mine, theirs = getattr(student, name).state_dict(), getattr(teacher, name).state_dict()
        for key in mine.keys() & theirs.keys():
            if mine[key].shape == theirs[key].shape:
                mine[key].copy_(theirs[key])


def train_mixers_only(model: SpeechLM) -> None:
    """Freeze whatever lies in no mixer. What was frozen before stays so."""
    inside = {id(p) for mixer in model.backbone.mixers() for p in mixer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside:
            parameter.requires_grad_(False)


def _check(name: str, teacher: Backbone, student: Backbone) -> None:
    def refuse(what: str, do: str) -> None:
        raise ConfigError(what, WHERE, do)

    for whose, backbone in ((f"teacher '{name}'", teacher), ("student", student)):
        if not backbone.mixers():
            refuse(
                f"The {whose} is a {type(backbone).__name__}, which names no mixers to compare.",
                "Take a backbone that does, or 'objective: {name: logits}', which needs none.",
            )
    if teacher.width != student.width:
        refuse(
            f"The student is {student.width} wide, the teacher '{name}' {teacher.width}.",
            "Give the student the teacher's width, or take 'objective: {name: logits}'.",
        )
    mine, theirs = len(student.mixers()), len(teacher.mixers())
    if mine != theirs:
        refuse(
            f"The student has {mine} mixers, the teacher '{name}' {theirs}.",
            "Give the student as many layers, or take 'objective: {name: logits}'.",
        )
