"""Suite of contenders of ``wishbone bench``."""

from __future__ import annotations

import json
import math
from typing import Any

from wishbone.core.contract.extensions.contender import Contender, Job
from wishbone.core.testing.common import Check, Skipped, Violation, require


def contract(cls: Any, config: Any, module: str | None) -> None:
    """The class is a ``Contender`` and is made from its config and a job, loading nothing."""
    require(
        issubclass(cls, Contender),
        "the class is no wishbone.core.contract.extensions.contender.Contender",
    )
    for name in ("load", "run"):
        require(getattr(cls, name) is not getattr(Contender, name), f"it has no {name}()")
    cls(config, _job(cls)[0])


def questions(cls: Any, config: Any, module: str | None) -> str:
    """Before anything is loaded it names missing packages and the files that it reads."""
    missing = cls.missing(config, _job(cls)[0])
    require(isinstance(missing, str), f"missing() returns {missing!r}, not a sentence or ''")
    files = cls.files(config)
    right = isinstance(files, tuple) and all(isinstance(name, str) for name in files)
    require(right, f"files() returns {files!r}, not a tuple of names")
    return missing or "can run here"


def runs(cls: Any, config: Any, module: str | None) -> str:
    """On its small job it loads, prepares a case, and times every repetition."""
    if cls.small_job() is None:
        raise Skipped("offers no small job (small_job)")
    job, case = cls.small_job()
    if missing := cls.missing(config, job):
        raise Skipped(missing)
    contender = cls(config, job)
    _is_data("load()", contender.load())
    _is_data("prepare()", contender.prepare(case))
    for count in (1, 3):
        times = contender.run(case, count)
        require(isinstance(times, dict) and bool(times), f"run() returns {times!r}, no measures")
        for measure, values in times.items():
            numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
            require(numbers, f"run() gives {values!r} for '{measure}', not a list of numbers")
            require(bool(values), f"run() gives nothing for '{measure}'")
            fine = all(math.isfinite(value) and value >= 0 for value in values)
            require(fine, f"run() gives {values} for '{measure}': not finite, or below 0")
        seconds = len(times.get("seconds", ()))
        require(seconds in (0, count), f"{count} repetitions were asked for, {seconds} timed")
    return ", ".join(times)


def _job(cls: Any) -> tuple[Job, str]:
    return cls.small_job() or (Job({}), "")


def _is_data(name: str, facts: Any) -> None:
    """Facts go through a pipe and into a file as JSON."""
    require(isinstance(facts, dict), f"{name} returns a {type(facts).__name__}, not a dict")
    try:
        json.dumps(facts)
    except TypeError as error:
        raise Violation(f"{name} returns what is no JSON: {error}") from error


CHECKS = (
    Check("contract", "A Contender made from its config and a job.", contract),
    Check("questions", "It names missing packages and the files it reads.", questions),
    Check("runs", "Every repetition asked for is timed.", runs),
)
