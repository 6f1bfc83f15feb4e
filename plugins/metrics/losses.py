"""Metrics on held-out token data: ``loss``, ``loss_marks`` and ``binding``."""

from __future__ import annotations

from collections.abc import Sequence

from wishbone.core.contract.extensions.metric import HeldOut, MetricInfo, ModelMetric


class HeldOutLoss(ModelMetric):
    """Cross entropy of the codes."""

    info = MetricInfo(
        key="loss",
        title="held-out loss",
        unit="nats/code",
        better="lower",
        margin=0.02,
        about="Cross entropy of the codes of utterances nobody trained on, teacher forced; the "
        "marks of a layout (when to read on, when to end) are left out.",
        primary=True,
        digits=3,
    )

    def measure(self, held_out: HeldOut) -> Sequence[float]:
        """The loss of each utterance's codes."""
        return held_out.losses.codes

    def signature(self) -> str:
        """The terms of the mean."""
        return "loss|cross entropy|teacher forced|codes"


class LossWithMarks(ModelMetric):
    """Cross entropy of the codes and of the layout's marks."""

    info = MetricInfo(
        key="loss_marks",
        title="loss with marks",
        unit="nats/code",
        better="lower",
        margin=0.02,
        about="The same and the layout's marks: codes and pace together, spread over the codes.",
        digits=3,
    )

    def measure(self, held_out: HeldOut) -> Sequence[float]:
        """The loss of everything that is predicted, over the number of codes."""
        return held_out.losses.with_marks

    def signature(self) -> str:
        """The terms of the mean."""
        return "loss_marks|cross entropy|teacher forced|codes and marks, per code"


class BindingGap(ModelMetric):
    """Dependence of a model on its text."""

    info = MetricInfo(
        key="binding",
        title="binding gap",
        unit="nats/code",
        better="higher",
        margin=0.02,
        about="By how much the loss rises when the text is another sentence's; zero means deaf.",
        primary=True,
        digits=3,
    )

    def measure(self, held_out: HeldOut) -> Sequence[float]:
        """The loss with another sentence's text minus the loss with the utterance's."""
        losses = held_out.losses
        pairs = zip(losses.other_text, losses.codes, strict=True)
        return [other - loss for other, loss in pairs]

    def signature(self) -> str:
        """The two losses."""
        return "binding|cross entropy|teacher forced|another text of as many words minus own"
