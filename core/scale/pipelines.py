"""Executors of datatrove (Penedo et al. 2024), each with the same step: a part as a process.

datatrove cuts the jobs, writes and submits Slurm's script, asks Ray for room, repeats what Ray's
workers lost, and leaves out ranks that are complete. Parts on this machine alone need none of it.
"""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import MissingExtra, UsageError, WishboneError
from wishbone.core.report.progress import say
from wishbone.core.scale.executors import Executor
from wishbone.core.scale.part_process import PartCommand
from wishbone.core.scale.step import LOGS

LOOK = 5.0
"""Seconds between two questions to Slurm, which serves a whole cluster."""


def submit_to_slurm(command: PartCommand, missing: Sequence[int], executor: Executor) -> str:
    """Submit the missing parts as an array of jobs -> the name of the jobs."""
    executors = _datatrove()
    partition = executor.partition or _default_partition()
    folder = _account(command, missing, executor)
    paths = shlex.quote(str(Path(sys.executable).parent))
    setup = executor.setup or ":"
    name = f"wishbone-{command.words[0]}-{secrets.token_hex(4)}"
    jobs = executors.SlurmPipelineExecutor(
        pipeline=[command],
        tasks=executor.count,
        workers=executor.at_once or -1,
        time=executor.time,
        partition=partition,
        cpus_per_task=executor.cpus,
        mem_per_cpu_gb=_whole(executor.memory),
        gpus_per_task=executor.gpus,
        job_name=name,
        qos=executor.qos,
        # the programs that a job starts stand beside the Python that submits it
        env_command=f"{setup}\nexport PATH={paths}:$PATH",
        sbatch_args={"kill-on-invalid-dep": "yes", **executor.sbatch},
        max_array_size=executor.array,
        logging_dir=str(folder),
        mail_user="",
    )
    try:
        jobs.run()
    except (OSError, subprocess.CalledProcessError) as error:
        raise WishboneError(
            f"The jobs could not be submitted: {error}.",
            str(folder / "launch_script.slurm"),
            "Run sbatch on that file to see why, and correct the --executor file.",
        ) from error
    say(f"submitted as job {jobs.job_id} ({name}); Slurm's own output: {jobs.slurm_logs_folder}")
    return name


def wait_for_slurm(name: str) -> None:
    """Return when no job of this name waits or runs."""
    while _in_queue(name):
        time.sleep(LOOK)


def _in_queue(name: str) -> bool:
    """Return whether tasks of an array of this name wait or run; true where Slurm is too busy."""
    words = ["squeue", "-h", "--name", name, "-o", "%i"]
    queue = subprocess.run(words, capture_output=True, text=True)
    return bool(queue.returncode) or bool(queue.stdout.strip())


def run_on_ray(command: PartCommand, missing: Sequence[int], executor: Executor) -> None:
    """Run the missing parts as tasks of a Ray cluster. Raises ``WishboneError`` for what failed."""
    executors = _datatrove()
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(
            "Running parts on Ray needs ray.", "--executor", "Run: pip install 'wishbone-tts[ray]'."
        ) from error
    folder = _account(command, missing, executor)
    try:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        ray.init(executor.address, ignore_reinit_error=True, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WishboneError(
            f"No Ray cluster answers at '{executor.address}': {str(error).splitlines()[0]}.",
            "--executor",
            "Start one with 'ray start --head', or write its address in the YAML file.",
        ) from error
    try:
        _require_room(ray.nodes(), executor)
    except UsageError:
        ray.shutdown()
        raise
    tasks = executors.RayPipelineExecutor(
        pipeline=[command],
        tasks=executor.count,
        workers=executor.at_once or -1,
        cpus_per_task=executor.cpus,
        mem_per_cpu_gb=executor.memory,
        gpus_per_task=executor.gpus,
        logging_dir=str(folder),
    )
    try:
        tasks.run()
    finally:
        ray.shutdown()
    lost = tasks.get_incomplete_ranks(list(missing))
    if lost:
        log = command.log(lost[0], executor.count)
        names = ", ".join(str(rank + 1) for rank in lost[:8])
        raise WishboneError(
            f"{len(lost)} of {len(missing)} parts failed: {names}.",
            str(log),
            "Read its log; the same command goes on with what is missing.",
        )


def _require_room(nodes: Sequence[Mapping[str, Any]], executor: Executor) -> None:
    """Raise ``UsageError`` where no machine of a cluster has room for a part; Ray would wait."""
    needed = {"CPU": executor.cpus, "GPU": executor.gpus}
    needed["memory"] = int(executor.memory * executor.cpus * 2**30)
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(room.get(k, 0) >= v for k, v in needed.items()) for room in rooms):
        most = {k: max((room.get(k, 0) for room in rooms), default=0) for k in needed}
        raise UsageError(
            f"No machine of the cluster has room for a part: {executor.cpus} processors,"
            f" {executor.cpus * executor.memory:g} GB and {executor.gpus} GPUs.",
            "--executor",
            f"Write fewer into its YAML file: the most are {most['CPU']:g} processors,"
            f" {most['memory'] / 2**30:.1f} GB, {most['GPU']:g} GPUs.",
        )


def _account(command: PartCommand, missing: Sequence[int], executor: Executor) -> Path:
    """Tell datatrove which ranks are complete -> the folder of its own account.

    Its marks say that a rank ended once; what is in the output folder now says more.
    """
    kind, count = executor.kind, executor.count
    folder = Path(command.directory, command.folder, LOGS, f"{kind}-{count:05d}")
    marks = folder / "completions"
    marks.mkdir(parents=True, exist_ok=True)
    waiting = set(missing)
    for rank in range(count):
        mark = marks / f"{rank:05d}"
        if rank in waiting:
            mark.unlink(missing_ok=True)
        else:
            mark.touch()
    return folder


def _datatrove() -> Any:
    """Return datatrove's executors; ``MissingExtra`` where it is not installed."""
    try:
        # it would print every step of every rank, which stands in its logs as well, and at every
        # start that folders must be shared, which core/scale/README.md says once
        os.environ.setdefault("LOGURU_LEVEL", "ERROR")
        import datatrove.executor
    except ImportError as error:
        raise MissingExtra(
            "Running parts on Slurm or Ray needs datatrove.",
            "--executor",
            "Run: pip install 'wishbone-tts[scale]'; --executor local:4 does without.",
        ) from error
    return datatrove.executor


def _default_partition() -> str:
    """Return the partition that ``sinfo`` marks as the default."""
    try:
        output = subprocess.run(
            ["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"Slurm's commands are not on this machine: {error}.",
            "--executor slurm",
            "Run it on a login node of the cluster, or use --executor local:4.",
        ) from error
    names = [line.strip() for line in output.splitlines() if line.strip()]
    default = [name.rstrip("*") for name in names if name.endswith("*")]
    if not default:
        raise UsageError(
            f"The cluster has no default partition; it has {', '.join(names) or 'none'}.",
            "--executor slurm",
            "Write 'kind: slurm' and 'partition: NAME' into a YAML file and name it.",
        )
    return default[0]


def _whole(memory: float) -> int | float:
    """Return GB as sbatch reads it, which wants whole numbers."""
    return max(1, round(memory))
