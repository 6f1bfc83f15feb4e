"""A part of a command as a process of its own: started, watched, and started again when killed.

Every executor runs parts this way. Models are loaded once in a part, a kill ends one part and is
seen at once, and what was run can be repeated by hand: the same words with ``--part K/N``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import STOPPED, WishboneError
from wishbone.core.scale.step import LOGS

LAUNCHED = "WISHBONE_LAUNCHED"
"""Environment variable of a process that is a part: it launches no parts itself."""
ACCELERATORS = "WISHBONE_GPUS"
"""Environment variable with the number of accelerators that a part has for itself."""
KILLED = 137
"""Exit code of a shell whose program was killed by signal 9."""
LOOK = 0.2
"""Seconds between two looks at a part."""
TAIL = 4000
"""Characters of a part's output in which its error is looked for."""


def launched() -> bool:
    """Return whether this process is a part; if so, it ends when its launcher does.

    The launcher holds the other end of standard input, which the system closes however it ends.
    """
    if LAUNCHED not in os.environ:
        return False
    if not any(thread.name == LAUNCHED for thread in threading.enumerate()):
        threading.Thread(target=_end_with_launcher, name=LAUNCHED, daemon=True).start()
    return True


def accelerators_of_part() -> int:
    """Return the number of accelerators that the executor gave this part; 0 where none did."""
    number = os.environ.get(ACCELERATORS, "")
    return int(number) if number.isdecimal() and LAUNCHED in os.environ else 0


def _end_with_launcher() -> None:
    try:
        while os.read(0, 4096):
            continue
    except OSError:
        pass
    os._exit(STOPPED)


class Stopped(Exception):
    """Raised in a thread whose part was stopped on purpose."""


@dataclass
class PartCommand:
    """A step that runs the command ``wishbone WORDS --part K/N``; datatrove's pipelines take it."""

    words: list[str]
    """The command line behind ``wishbone``."""
    folder: str
    """The output folder, below which ``logs/part-K-of-N.log`` has what the part printed."""
    tries: int = 3
    threads: int = 1
    accelerators: int = 0
    program: tuple[str, ...] = ()
    """Words before the command line; () is this installation, by the Python that runs the part."""
    directory: str = field(default_factory=os.getcwd)
    """The folder that relative paths start at."""

    def __call__(
        self, data: Any = None, rank: int = 0, world_size: int = 1, stop: Any = None
    ) -> list[Any]:
        """Run part ``rank`` + 1 of ``world_size`` to its end and return nothing for later steps.

        Raises ``WishboneError`` with its error where it fails, ``Stopped`` once ``stop`` is set.
        """
        name = f"{rank + 1}/{world_size}"
        log = self.log(rank, world_size)
        log.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(self.tries):
            code = self._run_once(name, log, stop)
            if code == 0:
                return []
            # a kill, such as for want of memory, may not come again; an error will
            if code >= 0 and code != KILLED:
                break
        raise WishboneError(
            f"Part {name} ended with {_end(code)}: {_last_error(log)}",
            str(log),
            "Read its log; the same command goes on with what is missing.",
        )

    def log(self, rank: int, world_size: int) -> Path:
        """Return the file that has what a part printed."""
        folder = Path(self.directory, self.folder, LOGS)
        return folder / f"part-{rank + 1:05d}-of-{world_size:05d}.log"

    def _run_once(self, name: str, log: Path, stop: Any) -> int:
        program = self.program or (sys.executable, "-m", "wishbone")
        words = [*program, *self.words, "--part", name]
        above = os.getppid()
        with log.open("ab") as output:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                cwd=self.directory, env=_environment(os.environ, self.threads, self.accelerators),
            )  # fmt: skip
        try:
            while process.poll() is None:
                time.sleep(LOOK)
                # in a worker of a cluster: whoever waits for this may have died
                lost = os.getppid() != above if stop is None else stop.is_set()
                if lost:
                    raise Stopped
        finally:
            if process.poll() is None:
                _end_process(process)
            process.stdin.close()
        return process.returncode


def _environment(environment: Mapping[str, str], threads: int, accelerators: int) -> dict[str, str]:
    """Return the environment of a part: what says which part this is says it no longer."""
    outer = ("SLURM_ARRAY_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = {k: v for k, v in environment.items() if not k.startswith(outer)}
    values |= {LAUNCHED: "1", ACCELERATORS: str(accelerators)}
    # threads that wait by turning would take the processors of the other parts
    for name, value in (("OMP_NUM_THREADS", str(threads)), ("OMP_WAIT_POLICY", "PASSIVE")):
        values.setdefault(name, value)
    return values


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        # it may be writing a shard; what it does not finish is made again
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end(code: int) -> str:
    return f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"


def _last_error(log: Path) -> str:
    """Return the first line of the last error in a log, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace")[-TAIL:].splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ").rstrip(".") + "."
