"""Suite of corpus formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wishbone.core.contract.extensions.corpus import CorpusFormat, Unusable, Utterance
from wishbone.core.testing.common import Check, Skipped, Violation, require


def contract(cls: Any, config: Any, module: str | None) -> str:
    """The class is made without arguments and says which columns it knows and what it takes."""
    require(issubclass(cls, CorpusFormat), "the class is no CorpusFormat")
    part = cls()
    require(isinstance(getattr(part, "name", None), str), "it has no name for people")
    columns = getattr(part, "columns", ())
    right = isinstance(columns, tuple | list) and all(isinstance(c, str) for c in columns)
    require(right and bool(columns), f"columns are {columns!r}, not names of columns")
    shortest, longest = part.seconds
    require(0 <= shortest < longest, f"seconds are {part.seconds}: nothing is between them")
    require(part.most_text > 0, f"most_text is {part.most_text}: no text is so short")
    return ", ".join(columns)


def odd_rows(cls: Any, config: Any, module: str | None) -> str:
    """Rows with missing, empty or strange values are left out with a reason, nothing else."""
    part = cls()
    rows = list(_odd(part.columns))
    example = part.example()
    if example:
        rows += [{**example, name: odd} for name in example for odd in (None, "", [], 7, [None])]
    for row in rows:
        try:
            _check_all(part, part.utterances(row, "row"))
        except Unusable as reason:
            require(bool(str(reason)), f"{row} is unusable without a reason")
        except AssertionError:
            raise
        except Exception as error:
            what = f"{row} raises {type(error).__name__}: {error}"
            raise Violation(f"{what}; raise Unusable instead") from error
    return f"{len(rows)} rows"


def _odd(columns: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    yield {}
    for column in columns:
        for odd in (None, "x", 7, [], [[]], [None], ["a"], [1.5], {"a": 1}, [[1, 2], [3]]):
            yield {column: odd}
            yield {column: odd, "text": "hello there"}
            yield {column: odd, "text": 3}


def example(cls: Any, config: Any, module: str | None) -> str:
    """Its own example gives utterances that can be used, the same every time."""
    part = cls()
    row = part.example()
    if row is None:
        raise Skipped("offers no example (example)")
    first = list(part.utterances(row, "row"))
    require(bool(first), "the example gives no utterance")
    _check_all(part, first)
    again = [(u.id, u.text, u.frames) for u in part.utterances(row, "row")]
    require([(u.id, u.text, u.frames) for u in first] == again, "a second reading differs")
    return f"{len(first)} utterances of {len(first[0].frames)} frames"


def _check_all(part: Any, utterances: Iterable[Utterance]) -> None:
    for utterance in utterances:
        require(isinstance(utterance, Utterance), f"{utterance!r} is no Utterance")
        require(utterance.kind is part, "an Utterance's kind is not the part that made it")
        require(isinstance(utterance.id, str) and bool(utterance.id), "an Utterance has no id")
        text = utterance.text
        require(isinstance(text, str) and bool(text.strip()), f"the text of one is {text!r}")
        require(bool(utterance.frames), "an Utterance has no frames")
        sizes = {len(frame) for frame in utterance.frames}
        require(len(sizes) == 1 and 0 not in sizes, f"frames of {sorted(sizes)} codes in one row")
        codes = [code for frame in utterance.frames for code in frame]
        require(all(type(code) is int for code in codes), "a code is no plain int")


CHECKS = (
    Check("contract", "It says which columns it knows and what it takes.", contract),
    Check("odd_rows", "Strange rows are left out with a reason.", odd_rows),
    Check("example", "Its own example gives usable utterances.", example),
)
