"""The parent's side of a benchmark: a process for each contender, asked one thing at a time.

A contender that raises, hangs or dies costs only itself: the parent gets ``ContenderLost`` saying
how, and goes on with the others.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wishbone.core.contract.extensions.contender import Job, Times
from wishbone.core.registry.registry import Entry

LOADING = 1800.0
"""Seconds a contender may take to load; compiling on a busy machine takes minutes."""
ANSWERING = 900.0
"""Seconds any other answer may take."""
TAIL = 1500
"""Characters of a lost contender's last output that its message quotes."""


@dataclass(frozen=True)
class Round:
    """Times of one round, and what disturbed it."""

    measured: Times
    wall: float
    """Seconds by the clock."""
    busy: float
    """Share of a processor that the contender had."""
    switches: int
    """Times that the system took the processor away."""


class ContenderLost(Exception):
    """A contender cannot go on; the message says why."""


class ContenderRefused(ContenderLost):
    """It raised an exception; its process lives and can be asked something else."""


class Worker:
    """One contender's process."""

    def __init__(
        self,
        key: str,
        part: Entry,
        config: Mapping[str, Any],
        job: Job,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process, in which ``part`` is imported."""
        self.key = key
        self._printed = tempfile.TemporaryFile()
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "wishbone.core.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env=os.environ | _threads(job.threads) | dict(environment or {}),
        )
        self._open = {
            "do": "open", "part": asdict(part), "config": dict(config), "job": asdict(job),
        }  # fmt: skip

    def load(self) -> dict[str, Any]:
        """Open the contender and make it ready -> its facts. Raises ``ContenderLost``."""
        self._ask(self._open, LOADING)
        return self._ask({"do": "load"}, LOADING)

    def prepare(self, case: str) -> dict[str, Any]:
        """Make one case ready -> facts of it. Raises ``ContenderLost``."""
        return self._ask({"do": "prepare", "case": case}, LOADING)

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return the tensors all contenders must agree on. Raises ``ContenderLost``."""
        return self._ask({"do": "check", "what": dict(what)}, ANSWERING)

    def run(self, case: str, count: int) -> Round:
        """Time one round of ``count`` repetitions. Raises ``ContenderLost``."""
        return Round(**self._ask({"do": "run", "case": case, "count": count}, ANSWERING))

    def close(self) -> None:
        """End the process: politely, then not."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def _ask(self, question: Mapping[str, Any], limit: float) -> Any:
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ContenderLost(self._end()) from error
        answer = json.loads(self._line(limit))
        if "error" in answer:
            raise ContenderRefused(answer["error"])
        return answer["value"]

    def _line(self, limit: float) -> bytes:
        pipe, until = self._process.stdout, time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, until - time.monotonic())):
                    self._process.kill()
                    raise ContenderLost(f"gave no answer for {limit:.0f} s; {self._end()}")
                received = os.read(pipe.fileno(), 1 << 16)
                if not received:
                    raise ContenderLost(self._end())
                self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _end(self) -> str:
        """Describe the end of the process and quote the last it printed."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        size = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, size - TAIL))
        output = " ".join(self._printed.read().decode(errors="replace").split())
        status = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"its process ended ({status})" + (f": ... {output}" if output else "")


def _threads(count: int) -> dict[str, str]:
    """Set one count for every pool of threads, none of which spins while others work."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(count)) | {"OMP_WAIT_POLICY": "PASSIVE"}
