"""The executor that runs the parts of a command: its kind, and all that it may be told.

``--executor local:4`` names a kind and a number of parts; ``--executor cluster.yaml`` has more::

    kind: slurm            # local, slurm or ray
    parts: 64              # the work is cut into so many
    at_once: 16            # parts that run at a time; 0 is all of them
    partition: gpu
    time: "04:00:00"
    cpus: 4
    gpus: 1
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from wishbone.core.config.compose import Config, parse
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import UsageError, did_you_mean
from wishbone.core.contract.part import Count, OneOf, OptionalSize, Positive, Size

LOCAL, SLURM, RAY = "local", "slurm", "ray"
KINDS = (LOCAL, SLURM, RAY)
WHERE = "--executor"


@dataclass
class Executor:
    """All that an executor is told; what another kind needs is left alone."""

    kind: Annotated[str, OneOf(*KINDS)] = LOCAL
    """Processes of this machine, jobs of Slurm, or tasks of a Ray cluster."""
    parts: OptionalSize = 0
    """Parts that the work is cut into; 0 is one a processor here, 64 on Slurm, 8 on Ray."""
    at_once: OptionalSize = 0
    """Parts that run at a time; 0 is all of them."""
    tries: Size = 3
    """Starts of a part whose process is killed, as the system does when memory runs out."""
    threads: OptionalSize = 0
    """Threads of a part; 0 is ``cpus``, locally 1."""
    cpus: Size = 1
    """Processors of a part."""
    memory: Positive = 4.0
    """GB for each of these processors."""
    gpus: Count = 0
    """Accelerators of a part."""
    partition: str = ""
    """Slurm's partition; "" is the cluster's default."""
    time: str = "24:00:00"
    """Longest time of a part on Slurm, hours:minutes:seconds."""
    qos: str = ""
    """Slurm's quality of service."""
    array: Size = 1000
    """Largest job array that the cluster takes; more parts are several arrays."""
    setup: str = ""
    """A line of shell before a job's work, such as ``source /home/me/.venv/bin/activate``."""
    wait: bool = True
    """True stays until all jobs of Slurm have ended; false submits them and returns."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch, such as ``account: speech``."""
    address: str = "auto"
    """Address of the Ray cluster."""

    @property
    def count(self) -> int:
        """Number of parts."""
        return self.parts or {LOCAL: os.cpu_count() or 1, SLURM: 64, RAY: 8}[self.kind]


def read_executor(words: str) -> Executor:
    """Read ``local``, ``local:4``, ``slurm:64``, ``ray:8`` or the name of a YAML file.

    Raises ``UsageError`` for what is neither, ``ConfigError`` for keys of the file.
    """
    kind, _, parts = words.partition(":")
    if kind in KINDS:
        number = int(parts) if parts.isdecimal() else 0
        if parts and not 1 <= number < 2**20:
            raise UsageError(f"'{parts}' is no number of parts.", WHERE, f"Write {kind}:4.")
        return Executor(kind, number)
    path = Path(words)
    if not path.is_file():
        hint = did_you_mean(kind, KINDS)
        raise UsageError(
            f"'{words}' is no executor and no file. {hint}".strip(),
            WHERE,
            "Write local:4, slurm:64, ray:8, or the name of a YAML file.",
        )
    values, lines = parse(path)
    places = {f"executor.{key}": f"{path}:{line}" for key, line in lines.items()}
    return structured(Executor, values, "executor", Config(values, path, places))
