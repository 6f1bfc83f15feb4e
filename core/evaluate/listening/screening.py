"""Listeners and answers that do not count, with the reason; results are shown with them as well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.evaluate.listening.answers import Answer, Answers

CATCH = 0.7
"""Share of catch trials that a listener has to answer right."""
CARELESS = 0.2
"""Share of answers that may be given without playing all, or faster than the clips last."""
REFERENCE, MISSED = 90.0, 0.15
"""MUSHRA (ITU-R BS.1534-3, section 4.1.2): who rates the hidden reference below 90, or the middle
anchor above it, in more than 15 % of the trials, is left out."""


@dataclass(frozen=True)
class Note:
    """A reason that concerns one listener."""

    rater: str
    rule: str
    detail: str
    excluded: bool
    """Whether the listener's answers are left out."""


def screen(answers: Answers, catch: float = CATCH) -> list[Note]:
    """Check every listener -> notes, in the order of the listeners."""
    by_rater: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers.answers:
        by_rater[answer.rater].append(answer)
    notes = []
    for rater, own_answers in by_rater.items():
        notes += _listener(rater, own_answers, answers, catch)
    return notes


def counted(answers: Answers, notes: Sequence[Note]) -> list[Answer]:
    """Return the answers that count: of no excluded listener, played to the end, no catch trial."""
    excluded = {note.rater for note in notes if note.excluded}
    return [a for a in uncaught(answers.answers) if a.rater not in excluded and a.played]


def uncaught(answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers without those of catch trials."""
    return [answer for answer in answers if answer.catch is None]


def _listener(
    rater: str, own_answers: Sequence[Answer], answers: Answers, catch: float
) -> list[Note]:
    notes = []
    checks = [answer.catch for answer in own_answers if answer.catch is not None]
    if checks:
        right = sum(checks)
        detail = f"{right} of {len(checks)} right"
        if right < catch * len(checks):
            notes.append(Note(rater, "catch trials", detail, True))
    number = len(own_answers)
    unplayed = sum(not answer.played for answer in own_answers)
    if unplayed:
        detail = f"{unplayed} of {number} answers without playing all clips to their end"
        notes.append(Note(rater, "forced play", detail, unplayed > CARELESS * number))
    hasty = sum(
        answer.seconds < answer.length
        for answer in own_answers
        if answer.seconds is not None and answer.length is not None
    )
    if hasty:
        detail = f"{hasty} of {number} answers sooner than the clips last"
        notes.append(Note(rater, "too fast", detail, hasty > CARELESS * number))
    notes += _mushra(rater, own_answers, answers)
    ordinary = uncaught(own_answers)
    if len(ordinary) >= 8 and len({answer.scores for answer in ordinary}) == 1:
        notes.append(Note(rater, "one answer", f"the same in all {len(ordinary)} trials", False))
    return notes


def _mushra(rater: str, own_answers: Sequence[Answer], answers: Answers) -> list[Note]:
    """Apply the standard's two rules, where there is a hidden reference."""
    if answers.design != "mushra" or not answers.reference:
        return []
    notes = []
    middle = max(answers.anchors, key=_hertz, default="")
    rules = [(answers.reference, "hidden reference", lambda score: score < REFERENCE)]
    if len(answers.anchors) > 1:
        rules.append((middle, "middle anchor", lambda score: score > REFERENCE))
    for system, rule, breaks in rules:
        scores = [
            answer.scores[answer.systems.index(system)]
            for answer in uncaught(own_answers)
            if system in answer.systems
        ]
        broken = sum(breaks(score) for score in scores)
        if scores and broken > MISSED * len(scores):
            side = "below" if system == answers.reference else "above"
            detail = f"{side} {REFERENCE:.0f} in {broken} of {len(scores)} trials"
            notes.append(Note(rater, rule, detail, True))
    return notes


def _hertz(anchor: str) -> int:
    """Return the number in an anchor's name, such as 3500 or 35."""
    return int("".join(letter for letter in anchor if letter.isdigit()) or 0)
