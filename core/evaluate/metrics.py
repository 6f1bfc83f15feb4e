"""What is compared between two arms: for each metric which way is better, and what counts.

The margins are the differences below which two arms are called equivalent. They are a choice made
before the result is seen; an A/B file may set others under ``margins``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from wishbone.core.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Metric:
    """One column of the result."""

    key: str
    """Name in files, and of the value in an item's row."""
    title: str
    """Name in tables."""
    unit: str
    better: str
    """"lower" or "higher"."""
    margin: float
    """Largest difference that is still equivalent: in units, or as a share for a ratio."""
    about: str
    """What it says, in one sentence."""
    ratio: bool = False
    """Compared as B / A (geometric mean) instead of B - A."""
    worst: float | None = None
    """What a failed item counts as; None where a failed item has no meaningful value."""
    primary: bool = False
    """Whether the verdicts are corrected together for asking several questions (Holm)."""
    digits: int = 2
    """Decimals in tables."""


METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            "wer",
            "word errors",
            "%",
            "lower",
            2.0,
            "Of 100 words, how many the recogniser missed, changed or added; capped per sentence.",
            worst=100.0,
            primary=True,
            digits=1,
        ),
        Metric(
            "dnsmos",
            "predicted quality",
            "MOS",
            "higher",
            0.1,
            "DNSMOS, a network's guess of a listener's opinion from 1 to 5; it does not know "
            "the text.",
            worst=1.0,
            primary=True,
        ),
        Metric(
            "similarity",
            "voice likeness",
            "cosine",
            "higher",
            0.01,
            "How near a speaker-recognition network puts the voice to the reference recordings.",
            worst=0.0,
            primary=True,
            digits=3,
        ),
        Metric(
            "rtf",
            "real-time factor",
            "s/s",
            "lower",
            0.05,
            "Seconds of computing for one second of audio; below 1 it can play while it speaks.",
            ratio=True,
            digits=3,
        ),
        Metric(
            "first_audio",
            "time to first audio",
            "ms",
            "lower",
            0.1,
            "Milliseconds from the request to the first samples.",
            ratio=True,
            digits=0,
        ),
        Metric(
            "token_rate",
            "codes per second",
            "1/s",
            "higher",
            0.05,
            "Code frames made per second of computing, the decoder's work included.",
            ratio=True,
            digits=0,
        ),
    )
}
"""Every metric, in the order of the tables."""


LISTENING = {
    metric.key: metric
    for metric in (
        Metric(
            "loss",
            "held-out loss",
            "nats/code",
            "lower",
            0.02,
            "Cross entropy of the codes of utterances nobody trained on, teacher forced; the marks "
            "of a layout (when to read on, when to end) are left out.",
            primary=True,
            digits=3,
        ),
        Metric(
            "loss_marks",
            "loss with marks",
            "nats/code",
            "lower",
            0.02,
            "The same and the layout's marks: codes and pace together, spread over the codes.",
            digits=3,
        ),
        Metric(
            "binding",
            "binding gap",
            "nats/code",
            "higher",
            0.02,
            "By how much the loss rises when the text is another sentence's; zero means deaf.",
            primary=True,
            digits=3,
        ),
    )
}
"""What is measured of a language model on token data, without speaking."""


def choose(margins: Mapping[str, float] | None = None) -> dict[str, Metric]:
    """All metrics of speech, with the margins of an A/B file in place; raises ``ConfigError``."""
    return _chosen(METRICS, margins)


def choose_listening(margins: Mapping[str, float] | None = None) -> dict[str, Metric]:
    """The same for what is measured on token data."""
    return _chosen(LISTENING, margins)


def _chosen(
    metrics: Mapping[str, Metric], margins: Mapping[str, float] | None
) -> dict[str, Metric]:
    chosen, known = dict(metrics), {**METRICS, **LISTENING}
    for key, margin in (margins or {}).items():
        if key not in known:
            raise ConfigError(
                f"There is no metric '{key}'.",
                f"margins.{key}",
                f"{did_you_mean(key, known)} Known: {', '.join(known)}.".strip(),
            )
        if not margin > 0:
            raise ConfigError(
                f"A margin must be above 0, not {margin}.",
                f"margins.{key}",
                "Give the largest difference that does not matter to you.",
            )
        if key in chosen:
            chosen[key] = replace(chosen[key], margin=float(margin))
    return chosen
