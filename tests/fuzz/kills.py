"""Commands in processes of their own, which die before an operation on a file or at a moment.

Each process is a fork of a server that has imported all of it and done nothing: a fork of the
tests' own process would wait for ever for locks that other threads of it held. Python tells an
audit hook of every file that is opened for writing, renamed, made or removed, before it happens;
there SIGKILL is sent, as the system does when memory runs out. Libraries that write by themselves
(safetensors, Arrow, soundfile) tell nobody, so that half of the kills come at any moment.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from kill_commands import COMMANDS

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")
NOTHING = 10**9
"""More operations than any command has: it is not killed."""
PRELOADED = (
    "pandas", "pyarrow.parquet", "torchaudio", "soundfile", "scipy.stats", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2", "rich.console",
    "rich.table", "omegaconf", "safetensors.torch", "torch.optim", "torch.utils.tensorboard",
    "torch._dynamo", "torch._refs", "torch.distributed.fsdp", "sqlite3",
)  # fmt: skip
"""What commands import when they begin: seconds that a kill every few seconds cannot spare."""
FOLDERS = [str(Path(__file__).parents[1] / name) for name in ("core", "fuzz")]
LONGEST = 300
"""Seconds after which a command hangs; one takes a few."""


@dataclass(frozen=True)
class Run:
    """One run of a command: exit code (-9 killed, None hung), operations on files, seconds."""

    code: int | None
    operations: int
    seconds: float


def begin(name, source, out, kill_at=NOTHING, environment=()):
    """Start a command in a process -> it, and the end of a pipe that says when it begins."""
    context = multiprocessing.get_context("forkserver")
    ours = [name for name in sys.modules if name.startswith("wishbone.")]
    context.set_forkserver_preload([*PRELOADED, *ours, "kill_commands"])
    # where the server, which begins with the first process, looks for the tests
    os.environ["PYTHONPATH"] = os.pathsep.join(FOLDERS)
    receiving, sending = context.Pipe(duplex=False)
    arguments = (name, source, out, kill_at, sending, dict(environment))
    process = context.Process(target=_child, args=arguments)
    process.start()
    sending.close()
    return process, receiving


def run(name, source, out, kill_at=NOTHING, kill_after=None):
    """Run a command; it dies before operation ``kill_at`` or after ``kill_after`` seconds."""
    process, receiving = begin(name, source, out, kill_at)
    operations = 0
    try:
        receiving.recv()  # it begins
        start = time.perf_counter()
        process.join(LONGEST if kill_after is None else kill_after)
        hangs = kill_after is None and process.is_alive()
        process.kill()
        process.join()
        operations = receiving.recv() if receiving.poll() else 0
    except EOFError:
        process.join(LONGEST)
        start, hangs = time.perf_counter(), False
    return Run(None if hangs else process.exitcode, operations, time.perf_counter() - start)


def _child(name, source, out, kill_at, sending, environment):
    code = 70
    try:
        torch.set_num_threads(1)
        os.environ.update(environment)
        _silence()
        count = _watch(str(out), kill_at)
        sending.send("begins")
        code = COMMANDS[name][0](source, out)
        sending.send(count())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _silence():
    sys.stdout = open(os.devnull, "w")


def _watch(folder, kill_at):
    """Count operations on files below ``folder``; die before number ``kill_at``."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event == "open":
            path, mode, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not changes or not isinstance(path, str | bytes | os.PathLike):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if os.path.abspath(os.fsdecode(path)).startswith(folder):
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)
    return lambda: count
