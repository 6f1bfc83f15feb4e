"""Metrics of speed: ``rtf``, ``first_audio`` and ``token_rate``, as noted while speaking."""

from __future__ import annotations

from wishbone.core.contract.extensions.metric import GenerationMetric, MetricInfo


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
        return "rtf|wall clock|one request at a time|one thread"


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
        return "first_audio|wall clock|one request at a time|one thread"


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
        return "token_rate|wall clock|one request at a time|one thread"
