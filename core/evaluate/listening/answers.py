"""Answers of listeners, read from files: those of the page, and tables of other programs.

A table is known by its columns. Those of webMUSHRA are read: ``mushra.csv``,
``paired_comparison.csv`` and ``lss.csv``; where a table has no column for the listener (its paired
one has none), listeners are guessed and a warning says so.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from wishbone.core.config.text_files import read_json
from wishbone.core.contract.errors import DataError, UsageError

SIDES = {"a": (1.0, 0.0), "b": (0.0, 1.0), "same": (0.5, 0.5)}
"""Answer to a pair -> scores of its first and second clip."""
RIGHT_MOS, ALL = 2, 1.0
"""Rating that a degraded clip may have; share of a clip that counts as played."""
RATER = "session_uuid"
"""The column of other programs' tables that names the listener, where there is one."""
CHOICES = {"correct": (1.0, 0.0), "incorrect": (0.0, 1.0), "undecided": (0.5, 0.5)}
"""Such a table's word for the choice -> scores of ``choice_reference`` and the other one."""
WHERE = "wishbone listen analyze"


@dataclass(frozen=True)
class Answer:
    """What one listener answered on one trial."""

    rater: str
    trial: str
    item: str
    systems: tuple[str, ...]
    """In the order in which the page showed them."""
    scores: tuple[float, ...]
    """One for each system; of ABX a single one, 1 where X was recognised."""
    catch: bool | None = None
    """Of a catch trial, whether the answer is right; None for all other trials."""
    seconds: float | None = None
    """From the trial's opening to its end; None where it is not known."""
    length: float | None = None
    """Seconds of its clips together."""
    played: bool = True
    """Whether every clip was played to its end."""


@dataclass
class Answers:
    """All answers of a test."""

    design: str
    systems: list[str]
    answers: list[Answer] = field(default_factory=list)
    reference: str = ""
    """The hidden reference's system, if there is one."""
    anchors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_answers(paths: Sequence[Path], key: Path | None, rater: str = "") -> Answers:
    """Read files and folders of answers. ``rater``: the column that names the listener.

    Raises ``UsageError`` where nothing can be read, a key is needed, or designs are mixed.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise UsageError("There are no answers.", ", ".join(map(str, paths)), "Name files of them.")
    tables = [(file, _rows(file)) for file in files]
    if any("clips" in row for _, rows in tables for row in rows):
        return _own(tables, _read_key(key))
    return _foreign(tables, rater)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(f for f in path.iterdir() if f.suffix in (".json", ".csv"))
    if not path.is_file():
        raise UsageError("There is no such file or folder.", str(path), "Check the path.")
    return [path]


def _rows(file: Path) -> list[dict[str, Any]]:
    """Read a file's answers, each with the facts of its session. Raises ``DataError``."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        data = json.loads(text)
        session = {name: data.get(name, "") for name in ("test", "session", "code")}
        return [{**row, **session} for row in data["answers"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"The answers cannot be read: {error}", str(file), "Leave this file out."
        ) from error


def _read_key(key: Path | None) -> dict[str, Any]:
    if key is None or not key.is_file():
        raise UsageError(
            "Without its key nobody knows which clip is whose.",
            str(key or WHERE),
            "Give --key the file that 'wishbone listen make' wrote beside the folder.",
        )
    return read_json(key, "Give the file that 'wishbone listen make' wrote beside the folder.")


def _own(tables: Sequence[tuple[Path, list[dict[str, Any]]]], key: Mapping[str, Any]) -> Answers:
    """Join the page's answers with the key; what does not fit it is left out, and counted."""
    reference, anchors = key["reference"], key["anchors"]
    result = Answers(key["design"], list(key["systems"]), [], reference, anchors)
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    bad, twice, alien = 0, 0, 0
    for _, rows in tables:
        for row in rows:
            if row.get("test") != key["test"]:
                alien += 1
                continue
            try:
                answer = _decode(row, key)
            except (KeyError, ValueError, TypeError, IndexError):
                bad += 1
                continue
            place = (answer.rater, answer.trial, tuple(sorted(answer.systems)))
            if place in seen:
                twice += 1
                continue
            seen.add(place)
            result.answers.append(answer)
    for number, words in (
        (alien, "of another test are left out"),
        (bad, "do not fit the key and are left out"),
        (twice, "repeat a trial for the same listener and are left out"),
    ):
        if number:
            result.warnings.append(f"{number} answers {words}.")
    return result


def _decode(row: Mapping[str, Any], key: Mapping[str, Any]) -> Answer:
    """Return an answer of the page in terms of systems. Raises ``ValueError`` and the like."""
    design, trial = key["design"], key["trials"][row["trial"]]
    names = row["clips"].split() if isinstance(row["clips"], str) else list(row["clips"])
    clips = [key["clips"][name] for name in names]
    played = row.get("played", [])
    shares = [float(x) for x in (played.split() if isinstance(played, str) else played)]
    scores = _scores(design, row["answer"], clips)
    plain = clips[:2] if design == "abx" else clips
    return Answer(
        rater=str(row.get("code") or "").strip() or str(row["session"])[:12],
        trial=row["trial"],
        item=trial["item"],
        systems=tuple(clip["system"] for clip in plain),
        scores=scores,
        catch=_caught(design, scores, clips) if trial["kind"] == "catch" else None,
        seconds=float(row["seconds"]),
        length=sum(clip["seconds"] for clip in clips),
        played=len(shares) >= len(clips) and min(shares) >= ALL,
    )


def _scores(design: str, answer: Any, clips: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return the scores of one answer; ``ValueError`` for one that the page does not offer."""
    if design == "ab":
        return SIDES[answer]
    if design == "abx":
        chosen, x = clips["ab".index(answer)], clips[2]
        alike = all(chosen[fact] == x[fact] for fact in ("system", "degraded"))
        return (float(alike),)
    words = answer.split() if isinstance(answer, str) else answer
    values = [float(x) for x in (words if isinstance(words, list) else [words])]
    low, high = {"cmos": (-3, 3), "mos": (1, 5), "mushra": (0, 100)}[design]
    if len(values) != (len(clips) if design == "mushra" else 1):
        raise ValueError(answer)
    if not all(low <= value <= high for value in values):
        raise ValueError(answer)
    return (0.0, values[0]) if design == "cmos" else tuple(values)


def _caught(design: str, scores: Sequence[float], clips: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a catch trial was answered as everybody who listens does."""
    bad = [clip["degraded"] for clip in clips].index(True)
    if design == "abx":
        return scores[0] == 1.0
    if design == "mos":
        return scores[0] <= RIGHT_MOS
    others = [score for place, score in enumerate(scores) if place != bad]
    # an anchor may be as bad, a system's own clip is not
    return min(others) >= scores[bad] < max(others)


def _foreign(tables: Sequence[tuple[Path, list[dict[str, Any]]]], rater: str) -> Answers:
    """Read tables of other programs by their columns."""
    result = Answers("", [])
    for file, rows in tables:
        columns = set(rows[0]) if rows else set()
        design = next((name for name, needed in COLUMNS.items() if columns.issuperset(needed)), "")
        if not design or result.design not in ("", design):
            raise UsageError(
                "The file's columns are of no kind that is known here, or of another design than"
                " the files before it.",
                str(file),
                "Give files of one design, of this test's page or with the columns "
                + "; or ".join(", ".join(names) for names in COLUMNS.values()),
            )
        result.design = design
        result.answers += _table(design, rows, _listeners(design, rows, rater, file, result))
    ordered = dict.fromkeys(system for answer in result.answers for system in answer.systems)
    # a hidden reference and anchors of MUSHRA are known by the names that such files give them
    result.reference = "reference" if result.design == "mushra" and "reference" in ordered else ""
    result.anchors = [name for name in ordered if re.fullmatch(r"anchor\d+", name)]
    special = [result.reference, *result.anchors]
    result.systems = sorted(ordered, key=lambda name: name in special)
    return result


COLUMNS = {
    "mushra": ("trial_id", "rating_stimulus", "rating_score"),
    "ab": ("trial_id", "choice_reference", "choice_non_reference", "choice_answer"),
    "mos": ("trial_id", "stimuli", "stimuli_rating"),
}
"""Design -> the columns by which another program's table is known."""


def _listeners(
    design: str, rows: Sequence[Mapping[str, str]], column: str, file: Path, result: Answers
) -> Iterator[str]:
    """Yield the listener of each row, guessed where no column names it."""
    column = column or (RATER if RATER in rows[0] else "")
    if column:
        if column not in rows[0]:
            raise UsageError(
                f"The file has no column '{column}'.", str(file), f"It has: {', '.join(rows[0])}."
            )
        yield from (row[column] for row in rows)
        return
    result.warnings.append(
        f"{file.name} has no column for the listener. A new one is supposed to begin where a trial"
        " comes again; if that is wrong, the intervals are, too. --rater COLUMN names one."
    )
    names, seen, name = count(1), set(), ""
    for row in rows:
        place = tuple(row[column] for column in COLUMNS[design][: 2 if design != "ab" else 3])
        if not name or place in seen:
            name, seen = f"listener {next(names)} of {file.stem}", set()
        seen.add(place)
        yield name


def _table(
    design: str, rows: Sequence[Mapping[str, str]], listeners: Iterator[str]
) -> Iterator[Answer]:
    """Yield the answers of another program's table; a MUSHRA trial's rows become one answer."""
    trials: dict[tuple[str, str], dict[str, float]] = {}
    for row, rater in zip(rows, listeners, strict=True):
        trial = row["trial_id"]
        if design == "ab":
            if row["choice_answer"] in CHOICES:
                pair = (row["choice_reference"], row["choice_non_reference"])
                yield Answer(rater, trial, trial, pair, CHOICES[row["choice_answer"]])
        elif design == "mos":
            score = (float(row["stimuli_rating"]),)
            yield Answer(rater, trial, trial, (row["stimuli"],), score)
        else:
            scores = trials.setdefault((rater, trial), {})
            scores[row["rating_stimulus"]] = float(row["rating_score"])
    for (rater, trial), scores in trials.items():
        yield Answer(rater, trial, trial, tuple(scores), tuple(scores.values()))
