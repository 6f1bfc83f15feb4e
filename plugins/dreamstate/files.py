"""A generator in a folder, and the states of voices that it learns from and makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from wishbone.core.config.compose import parse
from wishbone.core.config.schema import structured
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CheckpointError, DataError, UsageError
from wishbone.core.speak.voice import Voice, model_key, prepare
from wishbone.core.system.system import System
from wishbone.core.weights.tensor_files import read_tensors, write_tensors
from wishbone.plugins.dreamstate.generator import GeneratorConfig, StateGenerator
from wishbone.plugins.state_tuning.backbone import check_base, tunable
from wishbone.plugins.state_tuning.files import read_time_state

SHAPE, TENSORS = "shape.yaml", "generator.safetensors"
SPEAKER = "speaker"
"""Name of the style vector in what a decoder hears of a recording."""


def voice_files(folder: Path) -> list[tuple[Path, str]]:
    """Return voices and RWKV-PEFT's states in a folder, and in its folders, which are labels.

    Raises ``DataError`` where there is none.
    """
    paths = sorted(p for p in folder.rglob("*.yaml") if p.with_suffix(".safetensors").is_file())
    paths += sorted(p for p in folder.rglob("*") if p.suffix in (".pth", ".pt"))
    if not paths:
        raise DataError(
            "There is no voice in this folder.",
            str(folder),
            "Make some: 'wishbone say --save-voice', or 'wishbone state-convert'.",
        )
    return [(path, "" if path.parent == folder else path.parent.name) for path in paths]


def state_of(path: Path, system: System, names: dict[str, list[int]]) -> State:
    """Return the parts [1, ...] of a voice, or of a file of RWKV-PEFT.

    Raises ``CheckpointError`` for those of another model.
    """
    if path.suffix == ".yaml":
        return parts_of(Voice.load(path), system, list(names))
    state = read_time_state(path)
    if {name: list(part.shape[1:]) for name, part in state.items()} != names:
        raise CheckpointError(
            "The state in this file has other layers or sizes than the system's.",
            str(path),
            "Use the model it was learned with, without '--vectors'.",
        )
    return {name: state[name] for name in names}


def parts_of(voice: Voice, system: System, names: Sequence[str]) -> State:
    """Return these parts [1, ...] of the state a voice begins with, or of that after its prompt.

    Raises ``CheckpointError`` for a voice of another model.
    """
    start = voice.prompt(system).start or {}
    if voice.state is None and set(names) <= set(start) and not voice.speech:
        return {name: start[name] for name in names}
    _, _, state = prepare(voice, system)
    return {name: state[name].detach().cpu().clone() for name in names}


def names_of(system: System, vectors: bool) -> dict[str, list[int]]:
    """Name the parts of the system's state that can be generated, with their shapes.

    Raises ``CapabilityError`` for a backbone without any, or one whose state grows.
    """
    backbone = system.model.backbone
    begin = backbone.init_state(1, device="meta", dtype=system.model.dtype)
    check_base(backbone, begin)
    return {name: list(begin[name].shape[1:]) for name in tunable(begin, vectors)}


def style_of(voice: Voice | None, where: object) -> Tensor:
    """Return the voice's style vector [C], its speaker's. Raises ``DataError`` without one."""
    voice = voice or Voice()
    vector = voice.speaker if voice.speaker is not None else (voice.heard or {}).get(SPEAKER)
    if vector is None or vector.ndim != 1:
        raise DataError(
            "The voice has no vector of its speaker.",
            str(where),
            "Use labels (a folder for each), or neither.",
        )
    return vector.float()


def write(folder: Path, generator: StateGenerator) -> None:
    """Write a generator. Raises ``UsageError`` where the folder has one."""
    from omegaconf import OmegaConf

    if (folder / SHAPE).exists():
        raise UsageError("A generator is there already.", str(folder), "Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / TENSORS, generator)
    write_text(folder / SHAPE, OmegaConf.to_yaml(OmegaConf.create(asdict(generator.config))))


def load(folder: Path, system: System) -> StateGenerator:
    """Read a generator of this system's states. Raises ``CheckpointError`` for any other."""
    if not (folder / SHAPE).is_file():
        raise CheckpointError(
            "There is no generator here.", str(folder), "Make one: 'wishbone dreamstate train'."
        )
    values, config = parse(folder / SHAPE)
    shape = structured(GeneratorConfig, values, "generator", config)
    if (
        shape.model != model_key(system)
        or not shape.parts.items() <= names_of(system, True).items()
    ):
        raise CheckpointError(
            "The generator's states are those of another model.",
            str(folder),
            "Use the system that it was trained with.",
        )
    generator = StateGenerator(shape)
    try:
        generator.load_state_dict(read_tensors(folder / TENSORS))
    except RuntimeError as error:
        raise CheckpointError(
            f"The tensors are not those of the shape beside them: {str(error).splitlines()[-1]}",
            str(folder / TENSORS),
            "Take both files from the same training.",
        ) from error
    return generator.eval()


def voice_from(
    system: System, start: State, path: Path, *, licence: str, about: str, like: Voice | None
) -> Path:
    """Write a voice that begins with the parts [1, ...]; the decoder hears what ``like`` has."""
    if any(not part.isfinite().all() for part in start.values()):
        raise DataError("The state holds numbers that are none.", str(path), "Train for longer.")
    voice = Voice.from_start(system, start, path.stem, licence, about)
    if like is not None:
        voice = replace(voice, heard=like.heard, speaker=like.speaker, codec=like.codec)
    return voice.save(path)


def asked_rows(generator: StateGenerator, label: str, style: Tensor | None) -> Tensor | None:
    """Return what a state is asked for by, [1, C], or None. Raises ``UsageError``."""
    shape = generator.config
    if label:
        if label not in shape.labels:
            raise UsageError(
                f"The generator knows no label '{label}'.",
                "--label",
                f"Labels: {', '.join(shape.labels) or 'none'}.",
            )
        return torch.eye(len(shape.labels))[shape.labels.index(label)][None]  # [1, C]
    if style is None:
        return None
    if len(style) != shape.vector:
        raise UsageError(
            f"The generator takes style vectors of {shape.vector} numbers, this has {len(style)}.",
            "--style",
            "Train it with --by speaker, on voices of the same codec.",
        )
    return style[None]  # [1, C]
