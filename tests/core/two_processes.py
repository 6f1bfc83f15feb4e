"""``wishbone train`` in several processes at once, as torchrun would, from one import of torch."""

import json
import multiprocessing
import os
import socket
import tempfile
import time
import traceback
from pathlib import Path


def together(*commands, count=2, limit=120, prepare=None):
    """Run each list of words after ``wishbone train`` in ``count`` processes, one after another.

    Returns what each process said last: nothing, or the error that ended it. ``prepare()`` is
    called in each process first; it must be a function of a module.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wishbone.core.train.run", "pyarrow.parquet"])
    ports = [_port() for _ in commands]
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(
                target=_enter, args=(rank, count, ports, folder, commands, prepare), daemon=True
            )
            for rank in range(count)
        ]
        for worker in workers:
            worker.start()
        until = time.monotonic() + limit
        for worker in workers:
            worker.join(max(0.1, until - time.monotonic()))
        stuck = [worker for worker in workers if worker.is_alive()]
        for worker in stuck:
            worker.kill()
        files = [Path(folder) / str(rank) for rank in range(count)]
        ends = [f"exit code {worker.exitcode}" if worker.exitcode else "" for worker in workers]
        said = [f.read_text() if f.exists() else end for f, end in zip(files, ends, strict=True)]
    assert any(said) or not stuck, f"the processes did not end within {limit} s"
    return said


def losses(run):
    """Step and loss of every line of a run's log, held-out losses among them."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(entry["step"], entry.get("loss", entry.get("held_out"))) for entry in entries]


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _enter(rank, count, ports, folder, commands, prepare):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    import torch

    from wishbone.core.cli.train import main

    torch.set_num_threads(1)
    try:
        if prepare:
            prepare()
        for port, command in zip(ports, commands, strict=True):
            # a store that closes would still answer who comes late to it
            os.environ["MASTER_PORT"] = str(port)
            main([str(word) for word in command])
    except BaseException as error:
        (Path(folder) / str(rank)).write_text(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        # the others wait for this one and are to hear that it is gone
        os._exit(1)
