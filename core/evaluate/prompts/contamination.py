"""Contamination: sentences of a set of prompts that the texts of training data have, too.

Case, marks and spelling of quotes do not count. A sentence that stands whole in a text of training
was seen; one that shares eight words in a row was seen in part (n-grams, as Brown et al. 2020,
appendix C, with shorter ones because these are single sentences). Sentences of fewer words than
``SHORT`` are in any language by chance and are counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from wishbone.core.evaluate.measure.transcript import plain_marks

WORDS = 8
"""Words in a row that a sentence shares with a text, from which on it is seen in part."""
SHORT = 4
"""Words of a sentence, below which it is in any language by chance."""


@dataclass(frozen=True)
class Overlap:
    """One sentence that training saw."""

    sentence: int
    """Its place in the list, from 0."""
    whole: bool
    """True where all of it stands in the text."""
    text: str
    """The first text of training that has it."""


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text without case and marks."""
    return tuple(re.findall(r"[^\W_]+", plain_marks(text).lower().replace("'", "")))


def overlaps(sentences: Sequence[str], training: Iterable[str]) -> list[Overlap]:
    """Every sentence that stands whole or in part in one of the texts, in order."""
    words = [words_of(sentence) for sentence in sentences]
    # run of words -> sentences that have it, and where it begins in each
    sought: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for place, sentence in enumerate(words):
        for begin, run in enumerate(_runs(sentence, min(len(sentence), WORDS)) if sentence else ()):
            sought.setdefault(run, []).append((place, begin))
    lengths = sorted({len(run) for run in sought})
    matches: dict[int, Overlap] = {}
    for text in training:
        spoken = words_of(text)
        for length in lengths:
            for at, run in enumerate(_runs(spoken, length)):
                for place, begin in sought.get(run, ()):
                    rest = spoken[at - begin : at - begin + len(words[place])]
                    whole = at >= begin and rest == words[place]
                    if place not in matches or (whole and not matches[place].whole):
                        matches[place] = Overlap(place, whole, text)
    return [matches[place] for place in sorted(matches)]


def summary(sentences: Sequence[str], overlapping: Sequence[Overlap], texts: int) -> list[str]:
    """Lines for people: every sentence that was seen, then the counts."""
    short = [one for one in overlapping if len(words_of(sentences[one.sentence])) < SHORT]
    counted = [one for one in overlapping if one not in short]
    lines = [
        f"line {one.sentence + 1}, {'whole' if one.whole else f'{WORDS} words or more'}:"
        f" {sentences[one.sentence]}\n  training: {one.text}"
        for one in counted
    ]
    whole = sum(one.whole for one in counted)
    return [
        *lines,
        f"{len(sentences)} sentences beside {texts} texts of training: {whole} stand there whole,"
        f" {len(counted) - whole} more share {WORDS} words in a row or more;"
        f" {len(short)} of fewer than {SHORT} words are somewhere in them",
    ]


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))
