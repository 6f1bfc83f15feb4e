"""The three commands: what they read, and what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.speak.speaker import build
from wishbone.core.speak.voice import Voice, find, model_key
from wishbone.core.system.spec import read
from wishbone.plugins.dreamstate.files import (
    asked_rows,
    load,
    names_of,
    parts_of,
    state_of,
    style_of,
    voice_files,
    voice_from,
    write,
)
from wishbone.plugins.dreamstate.generator import GeneratorConfig, StateGenerator, fit


def train(options: Any) -> str:
    """Learn the states of a folder of voices. Raises ``DataError`` where something is missing."""
    system = build(read(options.system))
    names, paths = names_of(system, options.vectors), voice_files(Path(options.voices))
    labels, by = sorted({label for _, label in paths}), options.by
    if by == "label" and "" in labels:
        raise DataError(
            "Some voices lie in no folder of their own, so they have no label.",
            options.voices,
            "Put each into a folder that is named by its label, or leave '--by label' out.",
        )
    if options.width % options.heads:
        raise UsageError(
            f"A width of {options.width} is no multiple of {options.heads} heads.",
            "--width and --heads",
            "Change one of them.",
        )
    states = [state_of(path, system, names) for path, _ in paths]
    joined = {name: torch.cat([state[name] for state in states]) for name in names}  # [N, ...]
    asked, vector = None, 0
    if by == "label":
        asked = torch.eye(len(labels))[[labels.index(label) for _, label in paths]]  # [N, C]
    elif by == "speaker":
        voices = {path: Voice.load(path) for path, _ in paths if path.suffix == ".yaml"}
        asked = torch.stack([style_of(voices.get(path), path) for path, _ in paths])  # [N, C]
        vector = asked.shape[1]
    torch.manual_seed(options.seed)
    shape = GeneratorConfig(
        options.width, options.layers, options.heads, names, labels if by == "label" else [],
        min(options.rank, max(1, len(states) - 1)), vector, model_key(system),
    )  # fmt: skip
    generator = StateGenerator(shape)
    generator.measure(joined)
    losses = fit(
        generator, generator.flat(joined), asked, steps=options.steps, rate=options.rate,
        batch=options.batch, drop=options.drop, seed=options.seed,
    )  # fmt: skip
    write(Path(options.out), generator)
    last = losses[-max(1, len(losses) // 10) :]
    count = sum(part[:1].numel() for part in joined.values())
    return (
        f"{options.out} written: {len(states)} states of {count} numbers, {sum(generator.sizes)}"
        f" along their main directions; loss {losses[0]:.3f} at first,"
        f" {sum(last) / len(last):.3f} over the last tenth"
    )


def sample(options: Any) -> str:
    """Draw one state and write it as a voice."""
    system = build(read(options.system))
    generator = load(Path(options.generator), system)
    style = style_of(find(options.style), options.style) if options.style else None
    asked = asked_rows(generator, options.label, style)
    random = torch.Generator().manual_seed(options.seed)
    noise = torch.randn(1, sum(generator.sizes), generator=random)  # [1, P]
    rows = generator.flow(noise, asked, scale=options.scale, steps=options.flow)  # [1, P]
    path = voice_from(
        system, generator.states(rows), Path(options.out), licence=options.licence,
        about=f"A state drawn by a generator, seed {options.seed}.",
        like=find(options.like) if options.like else None,
    )  # fmt: skip
    return f"{path} written"


def edit(options: Any) -> str:
    """Move the state of a voice along a line and write it as another."""
    system = build(read(options.system))
    voices = [find(name) for name in (options.voice, options.towards, options.away) if name]
    if options.generator:
        generator = load(Path(options.generator), system)
        names = list(generator.config.parts)
    else:
        generator, names = None, list(names_of(system, options.vectors))
    states = [parts_of(voice, system, names) for voice in voices]
    joined = {name: torch.cat([state[name] for state in states]) for name in names}  # [2 or 3, ...]
    if generator is not None:
        rows = generator.flat(joined)  # [N, P]
        noise = generator.flow(rows, steps=options.flow, back=True)  # [N, P]
        moved = generator.flow(_moved(noise, options.amount), steps=options.flow)  # [1, P]
        start, within = generator.states(moved), generator.states(rows[:1])
        # what the generator has no directions for stays that of the voice
        start = {name: start[name] + joined[name][:1] - within[name] for name in names}
    else:
        start = {name: _moved(part, options.amount) for name, part in joined.items()}
    names_said = f"{options.voice} moved by {options.amount:g} towards {options.towards}"
    if options.away:
        names_said += f" from {options.away}"
    path = voice_from(
        system, start, Path(options.out), licence=options.licence, about=f"{names_said}.",
        like=voices[0],
    )  # fmt: skip
    return f"{path} written"


def _moved(rows: torch.Tensor, amount: float) -> torch.Tensor:
    """rows [2 or 3, ...]: a, where to, and perhaps where from -> [1, ...]."""
    first, to, origin = rows[:1], rows[1:2], rows[2:] if len(rows) > 2 else rows[:1]
    return first + amount * (to - origin)
