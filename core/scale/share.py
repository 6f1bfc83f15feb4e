"""The part of the work that is this process's: K of N, an array of Slurm, or a rank."""

from __future__ import annotations

from collections.abc import Mapping

from wishbone.core.contract.errors import UsageError

FORM = "Write --part 3/64, counted from 1."


def which_part(words: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Number and count of parts, from 1: of ``K/N``, an array of Slurm, or torchrun's rank.

    Raises ``UsageError`` for what is no part.
    """
    where = "--part"
    if not words and "SLURM_ARRAY_TASK_ID" in environment:
        where = "SLURM_ARRAY_TASK_ID"
        task, first = environment[where], environment.get("SLURM_ARRAY_TASK_MIN", "1")
        step = environment.get("SLURM_ARRAY_TASK_STEP", "1")
        words = f"{_place(task, first, step)}/{environment.get('SLURM_ARRAY_TASK_COUNT', '1')}"
    elif not words and environment.get("WORLD_SIZE", "1") != "1":
        where = "RANK"
        words = f"{_place(environment.get('RANK', ''), '0')}/{environment['WORLD_SIZE']}"
    number, _, count = (words or "1/1").partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise UsageError(f"'{words}' is no part.", where, FORM)


def _place(number: str, first: str, step: str = "1") -> str:
    """Count ``number`` from 1 where ``first`` is the first one; "?" for what is no number."""
    if not (number.isdecimal() and first.isdecimal() and step.isdecimal() and int(step)):
        return "?"
    place, beside = divmod(int(number) - int(first), int(step))
    return "?" if beside else str(place + 1)
