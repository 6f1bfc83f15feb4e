"""Options of commands that many processes share, and what they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wishbone.core.cli.arguments import option
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.part import Size
from wishbone.core.report.progress import say
from wishbone.core.scale.part_process import launched
from wishbone.core.scale.share import which_part

if TYPE_CHECKING:
    from wishbone.core.scale.step import Step

SHARING = "many processes and machines"


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """The options of everything that can be done in parts, for other dataclasses to extend."""

    executor: str = option(
        "", metavar="KIND:N", group=SHARING,
        help="run N parts: local:4 on this machine, slurm:64, ray:8, or a YAML file that says more"
        " (core/scale/README.md)",
    )  # fmt: skip
    part: str = option(
        "", metavar="K/N", default_text="SLURM_ARRAY_TASK_ID or RANK, else all of it",
        group=SHARING, help="do the K-th of N parts, started by whatever starts processes",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(PartOptions):
    """The same with a short word for processes of this machine."""

    workers: Size = option(
        1, metavar="N", group=SHARING, help="the same as --executor local:N, for N above 1"
    )


def do_in_parts(
    options: PartOptions,
    words: Sequence[str],
    make_step: Callable[[], Step],
    do_part: Callable[[Step, int, int], int],
) -> int:
    """Launch all parts of the command ``wishbone WORDS``, or do one with ``do_part(step, K, N)``.

    ``make_step`` is called in both cases: what is wrong is seen before anything is launched.
    """
    number, count = which_part(options.part, os.environ)
    workers = options.workers if isinstance(options, WorkerOptions) else 1
    executor = options.executor or (f"local:{workers}" if workers > 1 else "")
    if not executor or launched():
        if count > 1 and not options.part:
            say(f"part {number} of {count}, by this process's environment; --part 1/1 is all of it")
        return do_part(make_step(), number, count)
    if options.part:
        raise UsageError(
            "A part of the work is asked for, and somebody to do all parts.",
            "--part, --executor",
            "Give one of them.",
        )
    from wishbone.core.scale.executors import read_executor
    from wishbone.core.scale.launch import launch

    return launch(words, make_step(), read_executor(executor))
