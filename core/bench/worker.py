"""The child's side of a benchmark: one contender, asked over a pipe, one JSON line at a time.

Answers go to the descriptor that was standard output; whatever libraries print goes to standard
error, where the parent finds it if this process dies.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict
from typing import IO, Any

from wishbone.core.bench.protocol import Round
from wishbone.core.contract.extensions.contender import Contender, Job
from wishbone.core.registry.loader import guarded
from wishbone.core.registry.registry import Entry, import_target


def main() -> int:
    """Answer until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
    return 0


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer every line with one line: ``{"value": ...}`` or ``{"error": ...}``."""
    contender: Contender | None = None
    part: Entry | None = None
    for line in questions:
        question = json.loads(line)
        try:
            value: Any = None
            if question["do"] == "open":
                part = Entry(**question["part"])
                contender = _open(part, question)
            elif contender is None or part is None:
                raise RuntimeError("no contender is open")
            else:
                # a plug-in's contender that fails is named with its version
                with guarded(part):
                    value = _answer(contender, question)
            answer = {"value": value}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _open(part: Entry, question: dict[str, Any]) -> Contender:
    job = Job(**question["job"])
    kind = import_target(part)
    # the environment rules OpenMP; PyTorch's own count may differ from it
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.threads)
    with guarded(part):
        return kind(kind.Config(**question["config"]), job)


def _answer(contender: Contender, question: dict[str, Any]) -> Any:
    if question["do"] == "load":
        return contender.load()
    if question["do"] == "prepare":
        return contender.prepare(question["case"])
    if question["do"] == "check":
        return contender.check(question["what"])
    if question["do"] == "run":
        return asdict(timed_round(contender, question["case"], question["count"]))
    raise RuntimeError(f"'{question['do']}' is nothing a contender does")


def timed_round(contender: Contender, case: str, count: int) -> Round:
    """Run one round and note its disturbances: processor time and forced switches."""
    begin, worked = time.perf_counter(), _worked()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    measured = contender.run(case, count)
    wall = time.perf_counter() - begin
    return Round(
        measured=measured,
        wall=wall,
        busy=(_worked() - worked) / wall if wall else 0.0,
        switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
    )


def _worked() -> float:
    """Seconds of processor time of this process and of programs it started that have ended."""
    return time.process_time() + sum(os.times()[2:4])


if __name__ == "__main__":
    sys.exit(main())
