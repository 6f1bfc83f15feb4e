"""Metrics ``skips`` and ``repeats``: what autoregressive systems do wrong in their own way.

Both read the alignment of the better recogniser's transcript with the text, word by word. Single
words are mostly the recogniser's slips, gaps of several words mostly the system's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wishbone.core.contract.extensions.metric import Clip, MetricInfo, Row, Value
from wishbone.core.evaluate.measure.transcript import compared, normalize
from wishbone.plugins.metrics.recognisers import BASE
from wishbone.plugins.metrics.word_errors import PACKAGES, Understood

GAP = 2
"""Words that are missing in a row, from which on they count as skipped."""


@dataclass(frozen=True)
class Slips:
    """Skipped and repeated words of one transcript."""

    skipped: int
    """Words of the text in gaps of ``GAP`` or more that nothing stands in place of."""
    repeated: int
    """Words of the transcript that say again what stands beside them and are not in the text."""
    words: int
    """Words of the text."""


class Skips(Understood):
    """Words left out in gaps."""

    weights = BASE
    info = MetricInfo(
        key="skips",
        title="skipped words",
        unit="%",
        better="lower",
        margin=0.5,
        about="Of 100 words, how many are missing in gaps of two words or more.",
        worst=100.0,
    )
    packages = (*PACKAGES, *BASE.packages)
    fields = ("skips", "skips.words")

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Percent of the text's words, and their number."""
        result = slips(clip.text, self.recogniser.transcript(clip))
        return {"skips": _percent(result.skipped, result.words), "skips.words": result.words}

    @classmethod
    def failed(cls, text: str) -> Mapping[str, Value]:
        """All words."""
        return {"skips": 100.0, "skips.words": len(normalize(text).split())}

    @classmethod
    def weight(cls, row: Row) -> float:
        """The text's words."""
        return row.get("skips.words") or 1.0


class Repeats(Understood):
    """Words that are said again."""

    weights = BASE
    info = MetricInfo(
        key="repeats",
        title="repeated words",
        unit="%",
        better="lower",
        margin=0.5,
        about="For 100 words, how many are said again at once although the text does not.",
        worst=100.0,
    )
    packages = (*PACKAGES, *BASE.packages)
    fields = ("repeats", "repeats.words")

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Percent of the text's words, at most 100, and their number."""
        result = slips(clip.text, self.recogniser.transcript(clip))
        percent = min(100.0, _percent(result.repeated, result.words))
        return {"repeats": percent, "repeats.words": result.words}

    @classmethod
    def failed(cls, text: str) -> Mapping[str, Value]:
        """The worst there is."""
        return {"repeats": 100.0, "repeats.words": len(normalize(text).split())}

    @classmethod
    def weight(cls, row: Row) -> float:
        """The text's words."""
        return row.get("repeats.words") or 1.0


def slips(text: str, transcript: str) -> Slips:
    """Count skipped and repeated words after normalising both."""
    expected, recognised = compared(text, transcript)
    if not expected:
        return Slips(0, 0, 0)
    import jiwer

    skipped = repeated = 0
    for chunk in jiwer.process_words(" ".join(expected), " ".join(recognised)).alignments[0]:
        gap = chunk.ref_end_idx - chunk.ref_start_idx
        if chunk.type == "delete" and gap >= GAP:
            skipped += gap
        elif chunk.type == "insert":
            repeated += _again(recognised, chunk.hyp_start_idx, chunk.hyp_end_idx)
    return Slips(skipped, repeated, len(expected))


def _again(words: Sequence[str], start: int, end: int) -> int:
    """Of the words [start, end) the most that equal those just before, or those just behind."""
    added = words[start:end]
    for count in range(len(added), 0, -1):
        before = start >= count and words[start - count : start] == added[:count]
        if before or words[end : end + count] == added[-count:]:
            return count
    return 0


def _percent(count: int, words: int) -> float:
    return 100.0 * count / words if words else 0.0
