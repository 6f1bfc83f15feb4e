"""Stage 2: the student as a whole learns the teacher's probabilities of the next code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.objective import Objective
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.plugins.distil.align import inherit, train_mixers_only
from wishbone.plugins.distil.teacher import WHERE, Learned, TeacherFields

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
        """Whom to learn from, and what."""

        temperature: float = 1.0
        """tau: above 1, codes that the teacher finds unlikely count for more."""
        kl_weight: float = 1.0
        """Of the divergence."""
        ce_weight: float = 0.0
        """Of the cross entropy with the code that was really spoken."""
        train: str = "all"
        """"all" that is not frozen, or "mixers", which leaves what was inherited as it was."""
        inherit: bool = False
        """Begin with what of the teacher fits; leave it out after stage 1, which did it."""

    def __init__(self, config: Config, model: SpeechLM, system: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` for values that mean nothing."""
        super().__init__(config, model, system)
        _check(config, model)
        self.teacher = Learned(config, system)
        if config.inherit:
            inherit(model, self.teacher.model)
        if config.train == "mixers":
            train_mixers_only(model)

    def forward(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum over targets in nats, and their number."""
        targets = targets.masked_fill(~mask[..., None], IGNORE)
        wanted = (targets != IGNORE).any(dim=-1)
        with torch.no_grad():
            theirs = _logits(self.teacher.on(table), table, ids, mask, wanted)
        mine = _logits(self.model, table, ids, mask, wanted)
        config, real = self.config, targets[wanted] != IGNORE
        total = config.kl_weight * divergence(mine, theirs, config.temperature)[real].sum()
        if config.ce_weight:
            answers = targets[wanted].flatten()
            entropy = F.cross_entropy(
                mine.flatten(0, 1), answers, ignore_index=IGNORE, reduction="sum"
            )
            total = total + config.ce_weight * entropy
        return total, real.sum()

    def about(self) -> dict[str, Any]:
        """Of the teacher."""
        return self.teacher.about()


def divergence(mine: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Logits [..., X] of student and teacher -> tau^2 KL(teacher || student) in nats, [...].

    A code that the teacher never says contributes nothing, whatever the student thinks of it.
    """
    log_p = (theirs / temperature).log_softmax(-1)
    log_q = (mine / temperature).log_softmax(-1)
    p = log_p.exp()
    # what neither can say has the logit -inf in both, and no difference
    return temperature**2 * (p * (log_p - log_q)).masked_fill(p == 0, 0).sum(-1)


def _logits(model: SpeechLM, table: Tensor, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
    """Logits [N, Q, X] in float32 at the positions that are ``wanted`` [B, T]."""
    hidden, _ = model(table, ids, mask=mask)
    return model.head(hidden[wanted]).float()


def _check(config: Logits.Config, model: SpeechLM) -> None:
    def refuse(what: str, do: str) -> None:
        raise ConfigError(what, WHERE, do)

    if config.train not in TRAINED:
        refuse(f"There is no way to train '{config.train}'.", "Write all or mixers.")
    if config.train == "mixers" and not model.backbone.mixers():
        refuse(f"{type(model.backbone).__name__} names no mixers.", "Write 'train: all'.")
    if not config.temperature > 0:
        refuse(f"The temperature is {config.temperature}.", "Write a number above 0, such as 1.")
    if min(config.kl_weight, config.ce_weight) < 0 or config.kl_weight + config.ce_weight <= 0:
        refuse("The weights of the two losses are negative or both 0.", "Write 1 and 0, or so.")
