"""Learned states in files: voices of the plain system, and RWKV-PEFT's ``time_state``.

RWKV-PEFT writes ``blocks.N.att.time_state`` [H, V, K] (rwkvt/rwkv7/att.py), values in rows as in
our ``blocks.N.wkv``: RWKV-LM's orientation, so every number keeps its place. fla, and the ``rwkv``
package for versions 5 and 6, hold the transpose.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from wishbone.core.config.compose import Config
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CapabilityError, CheckpointError, UsageError
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.system import System
from wishbone.core.weights.foreign import write_pickle
from wishbone.core.weights.tensor_files import read_tensors, write_tensors
from wishbone.plugins.state_tuning.backbone import MATRIX, StateTuned

PEFT_NAME = re.compile(r"(?:.*\.)?blocks\.(\d+)\.att\.time_state")
STATE_NAME = re.compile(r"blocks\.(\d+)\.wkv")
ENDINGS = (".pth", ".pt", ".safetensors")
"""Endings of files of tensors: any may be read, .pth and .safetensors are written."""


def unwrap(system: System) -> tuple[System, State]:
    """Take a system apart: the plain one, on the same weights, and the learned state [1, ...].

    Where nothing but the state was trained it is the system that the training began with, to the
    last bit. Raises ``CapabilityError`` for a system whose backbone is not tuned so.
    """
    backbone = system.model.backbone
    if not isinstance(backbone, StateTuned):
        raise CapabilityError(
            f"The system's backbone is a {type(backbone).__name__}, and none with a learned state.",
            "the system given",
            "Give the export of a training whose backbone is 'state_tuned'.",
        )
    if backbone.config.supports:
        raise CapabilityError(
            "A voice holds a first state, and this one is read by a memory that the plain system"
            " does not have.",
            "supports of the backbone 'state_tuned'",
            "Speak with the training's export itself: --system RUN/export.",
        )
    learned = {name: part.detach()[None].clone() for name, part in backbone.learned().items()}
    model = SpeechLM(backbone.base, system.model.head, system.layout)
    model.tables = system.model.tables
    values = {**system.config, "backbone": dict(system.config["backbone"]["base"])}
    config = Config(values, system.config.path, system.config.places)
    return replace(system, model=model.eval().requires_grad_(False), config=config), learned


def read_time_state(path: str | Path) -> State:
    """Read a state [1, ...] from RWKV-PEFT's file, also one merged into a complete model.

    Raises ``CheckpointError`` when it holds none, or one with a gap between its layers.
    """
    parts = {
        int(match[1]): part
        for name, part in read_tensors(path).items()
        if (match := PEFT_NAME.fullmatch(name))
    }
    bad = [n for n, part in parts.items() if part.ndim != MATRIX - 1]
    if not parts or bad or sorted(parts) != list(range(len(parts))):
        raise CheckpointError(
            "The file holds no 'blocks.N.att.time_state' [H, V, K] for every layer from 0 on; it"
            f" has those of {sorted(parts) or 'none'}.",
            str(path),
            "Give the file that RWKV-PEFT wrote with train_type=state, for RWKV-7.",
        )
    return {f"blocks.{n}.wkv": parts[n].float()[None] for n in sorted(parts)}  # [1, H, V, K]


def write_time_state(path: str | Path, start: State) -> None:
    """Write a learned state [1, ...] as RWKV-PEFT does; nothing that exists is overwritten.

    Raises ``UsageError`` for a state that is not RWKV-7's matrices alone.
    """
    path = Path(path)
    if path.exists():
        raise UsageError("The file exists already.", str(path), "Choose another name.")
    matches = {name: STATE_NAME.fullmatch(name) for name in start}
    other = [name for name, match in matches.items() if match is None]
    if other:
        raise UsageError(
            f"RWKV-PEFT's files have no place for {', '.join(other)}.",
            str(path),
            "Train without 'vectors', on an RWKV-7; or keep the voice file.",
        )
    tensors = {
        f"blocks.{match[1]}.att.time_state": start[name][0]
        for name, match in matches.items()
        if match
    }
    (write_tensors if path.suffix == ".safetensors" else write_pickle)(path, tensors)
