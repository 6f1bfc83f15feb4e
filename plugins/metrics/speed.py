"""Metrics noted while speaking: ``rtf``, ``processor_rtf``, ``first_audio``, ``token_rate`` and
``redraws``.
"""

from __future__ import annotations

from wishbone.core.contract.extensions.metric import GenerationMetric, MetricInfo, Row


class RealTimeFactor(GenerationMetric):
    """Seconds of computing for one second of audio."""

    info = MetricInfo(
        key="rtf",
        title="real-time factor",
        unit="s/s",
        better="lower",
        margin=0.05,
        about="Seconds of computing for one second of audio; below 1 it can play while it speaks.",
        ratio=True,
        digits=3,
    )

    def signature(self) -> str:
        """The clock and the conditions."""
        return "rtf|wall clock|median of rounds|one request at a time|one thread"


class ProcessorFactor(GenerationMetric):
    """Seconds of processor time for one second of audio."""

    info = MetricInfo(
        key="processor_rtf",
        title="processor time",
        unit="s/s",
        better="lower",
        margin=0.05,
        about="Seconds of processor time for one second of audio: what the clock says, without the "
        "time in which others had the processor.",
        ratio=True,
        digits=3,
    )

    @classmethod
    def value(cls, row: Row) -> float | None:
        """Processor time over the audio's length; None where it was not noted."""
        if not row.get("processor") or not row.get("seconds"):
            return None
        return row["processor"] / row["seconds"]

    def signature(self) -> str:
        """The clock and the conditions."""
        return "processor_rtf|processor time of the process|median of rounds|one thread"


class FirstAudio(GenerationMetric):
    """Latency of the first samples."""

    info = MetricInfo(
        key="first_audio",
        title="time to first audio",
        unit="ms",
        better="lower",
        margin=0.1,
        about="Milliseconds from the request to the first samples.",
        ratio=True,
        digits=0,
    )

    def signature(self) -> str:
        """The clock and the conditions."""
        return "first_audio|wall clock|median of rounds|one request at a time|one thread"


class TokenRate(GenerationMetric):
    """Code frames per second of computing."""

    info = MetricInfo(
        key="token_rate",
        title="codes per second",
        unit="1/s",
        better="higher",
        margin=0.05,
        about="Code frames made per second of computing, the decoder's work included.",
        ratio=True,
        digits=0,
    )

    def signature(self) -> str:
        """The clock and the conditions."""
        return "token_rate|wall clock|median of rounds|one request at a time|one thread"


class Redraws(GenerationMetric):
    """Pieces of a text that were drawn again because something was wrong with them."""

    info = MetricInfo(
        key="redraws",
        title="pieces drawn again",
        unit="per text",
        better="lower",
        margin=0.1,
        about="Times that a piece of the text was too short, silent, going round in circles or "
        "never ending, and drawn again before anybody heard it.",
        digits=2,
    )

    def signature(self) -> str:
        """What counts as wrong stands in ``wishbone.core.speak.text_to_speech``."""
        return "redraws|guard:1"
