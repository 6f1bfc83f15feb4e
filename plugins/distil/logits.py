"""Stage 2: the student as a whole learns the teacher's probabilities of the next code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.part import NonNegative, Positive
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.plugins.distil.align import inherit, train_mixers_only
from wishbone.plugins.distil.teacher import WHERE, TeacherFields, TeacherModel

TRAINED = ("all", "mixers")


class Logits(Objective):
    """Divergence of the student's next code from the teacher's, and cross entropy if wanted.

    Of every target, with p and q the softmax of both models' logits / tau:
    ``kl_weight tau^2 sum_x p_x (log p_x - log q_x) + ce_weight (- log q_target at tau 1)``
    (Hinton, arXiv 1503.02531, section 2; ARWKV's second stage has tau 1 and weights 1 and 0).
    Positions that predict nothing, such as text, count for nothing. The two need only the same
    positions and codes: widths, depths and heads may differ.
    """

    @dataclass
    class Config(TeacherFields):
        """The teacher, the two losses and the parameters to train."""

        temperature: Positive = 1.0
        """tau: above 1, codes that the teacher finds unlikely count for more."""
        kl_weight: NonNegative = 1.0
        """Weight of the divergence."""
        ce_weight: NonNegative = 0.0
        """Weight of the cross entropy with the code that was really spoken."""
        train: str = "all"
        """"all" that is not frozen, or "mixers", which leaves everything else as inherited."""
        inherit: bool = False
        """Begin with the teacher's tensors that fit; leave it out after stage 1, which did it."""

    def __init__(self, config: Config, model: SpeechLM, system: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` for values that mean nothing."""
        super().__init__(config, model, system)
        _check_fields(config, model)
        self.teacher = TeacherModel(config, system)
        if config.inherit:
            inherit(model, self.teacher.model)
        if config.train == "mixers":
            train_mixers_only(model)

    def forward(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum over targets in nats, and their number."""
        targets = targets.masked_fill(~mask[..., None], IGNORE)  # [B, T, Q]
        predicting = (targets != IGNORE).any(dim=-1)  # [B, T]
        with torch.no_grad():
            teacher = _logits(self.teacher.on(table), table, ids, mask, targets)  # [N, Q, X]
        student = _logits(self.model, table, ids, mask, targets)  # [N, Q, X]
        config, real = self.config, targets[predicting] != IGNORE  # [N, Q]
        total = config.kl_weight * divergence(student, teacher, config.temperature)[real].sum()
        if config.ce_weight:
            codes = targets[predicting].flatten()  # [N Q]
            entropy = F.cross_entropy(
                student.flatten(0, 1), codes, ignore_index=IGNORE, reduction="sum"
            )
            total = total + config.ce_weight * entropy
        return total, real.sum()

    def about(self) -> dict[str, Any]:
        """Return the teacher's name and the hash of its weights."""
        return self.teacher.about()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Logits [..., X] of student and teacher -> tau^2 KL(teacher || student) in nats, [...].

    A code that the teacher never says contributes nothing, however likely the student finds it.
    """
    log_p = (teacher / temperature).log_softmax(-1)  # [..., X]
    log_q = (student / temperature).log_softmax(-1)  # [..., X]
    p = log_p.exp()  # [..., X]
    # A code that neither can say has the logit -inf in both, whose difference is not a number.
    return temperature**2 * (p * (log_p - log_q)).masked_fill(p == 0, 0).sum(-1)


def _logits(model: SpeechLM, table: Tensor, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Logits [N, Q, X] in float32 at the N positions that have any of targets [B, T, Q]."""
    hidden, _ = model(table, ids, mask=mask)  # [B, T, D]
    positions = (targets != IGNORE).any(dim=-1)  # [B, T]
    return model.head.predict(hidden[positions], targets[positions]).float()


def _check_fields(config: Logits.Config, model: SpeechLM) -> None:
    def refuse(problem: str, do: str) -> None:
        raise ConfigError(problem, WHERE, do)

    if config.train not in TRAINED:
        refuse(f"There is no way to train '{config.train}'.", "Write all or mixers.")
    if config.train == "mixers" and not model.backbone.mixers():
        refuse(f"{type(model.backbone).__name__} names no mixers.", "Write 'train: all'.")
    if not config.temperature > 0:
        refuse(f"The temperature is {config.temperature}.", "Write a number above 0, such as 1.")
    if min(config.kl_weight, config.ce_weight) < 0 or config.kl_weight + config.ce_weight <= 0:
        refuse("The weights of the two losses are negative or both 0.", "Write 1 and 0, or so.")
