"""Running all parts of a command: in processes of this machine, on Slurm, or on a Ray cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from wishbone.core.contract.errors import WishboneError, when_stopped
from wishbone.core.report.progress import EVERY, say
from wishbone.core.scale.executors import LOCAL, SLURM, Executor
from wishbone.core.scale.part_process import PartCommand
from wishbone.core.scale.pipelines import run_on_ray, submit_to_slurm, wait_for_slurm
from wishbone.core.scale.step import Step

SHARE_OF_LOOKING = 20
"""A look at a large folder takes a while; the time between two is so many times as long."""


def launch(words: Sequence[str], step: Step, executor: Executor) -> int:
    """Run the command ``wishbone WORDS`` in parts until ``step`` is complete -> the exit code.

    Parts in which nothing is missing are not started. Raises ``WishboneError`` where parts failed,
    ``MissingExtra`` without datatrove.
    """
    parts = executor.count
    missing = [rank for rank in range(parts) if step.unfinished(rank, parts)]
    if not missing:
        say(f"{step.folder}: nothing is missing")
        return 0
    threads = executor.threads or executor.cpus
    command = PartCommand(list(words), str(step.folder), executor.tries, threads, executor.gpus)
    say(
        f"{len(missing)} of {parts} parts on {executor.kind};"
        f" what they print: {command.log(missing[0], parts).parent}"
    )
    begin = time.monotonic()
    if executor.kind == LOCAL:
        _run_here(command, missing, step, executor)
    elif executor.kind == SLURM:
        name = submit_to_slurm(command, missing, executor)
        if not executor.wait:
            say(f"look: squeue --name {name}; in the end: wishbone data gather {step.folder}")
            return 0
        with when_stopped(lambda: f"the jobs go on; to end them: scancel --name {name}"):
            _in_background(lambda: wait_for_slurm(name), step, parts)
    else:
        with when_stopped(lambda: "what is complete stays; the same command goes on"):
            _in_background(lambda: run_on_ray(command, missing, executor), step, parts)
    left = sum(step.unfinished(rank, parts) for rank in range(parts))
    if left:
        raise WishboneError(
            f"{left} pieces are missing although every part ended.",
            str(command.log(missing[0], parts).parent),
            "Read what the parts printed there; the same command goes on.",
        )
    say(f"{step.folder}: complete after {time.monotonic() - begin:.0f} s")
    return 0


def _run_here(command: PartCommand, missing: Sequence[int], step: Step, executor: Executor) -> None:
    """Run parts in processes of this machine, so many at once, and say how far they are."""
    parts, stop = executor.count, threading.Event()
    with ThreadPoolExecutor(executor.at_once or len(missing)) as pool:
        futures = [pool.submit(command, None, rank, parts, stop) for rank in missing]
        try:
            with when_stopped(lambda: "what is complete stays; the same command goes on"):
                _watch(futures, step, parts)
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise _together(errors, len(missing))


def _together(errors: Sequence[BaseException], count: int) -> BaseException:
    """Return one error for all: the first, and how many parts had one."""
    first = errors[0]
    if len(errors) == 1 or not isinstance(first, WishboneError):
        return first
    return WishboneError(
        f"{len(errors)} of {count} parts failed. {first.what}", first.where, first.do
    )


def _in_background(work: Callable[[], None], step: Step, parts: int) -> None:
    """Call ``work`` in a thread, which nobody waits for once this one is stopped."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    _watch([future], step, parts)
    future.result()


def _watch(futures: Sequence[Future[object]], step: Step, parts: int) -> None:
    """Wait for futures and print now and then how many pieces are missing."""
    total = before = sum(step.unfinished(rank, parts) for rank in range(parts))
    begin, pause, waiting = time.monotonic(), EVERY, set(futures)
    while waiting:
        _, waiting = wait(waiting, timeout=pause, return_when=FIRST_COMPLETED)
        look = time.monotonic()
        left = sum(step.unfinished(rank, parts) for rank in range(parts)) if waiting else 0
        pause = max(EVERY, SHARE_OF_LOOKING * (time.monotonic() - look))
        if waiting and left < before:
            spent = look - begin
            soon = spent / (total - left) * left
            say(f"{total - left}/{total} pieces, {spent:.0f} s, about {soon:.0f} s left")
            before = left
