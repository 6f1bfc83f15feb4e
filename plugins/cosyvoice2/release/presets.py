"""The speaker presets of a release (``spk2info.pt``) as voices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.speak.voice import Voice
from wishbone.plugins.cosyvoice2.release import files

RISE = 2
"""Mel frames in a code frame."""

NAMES = {
    "embedding", "llm_embedding", "flow_embedding", "prompt_text", "prompt_text_len",
    "llm_prompt_speech_token", "llm_prompt_speech_token_len", "flow_prompt_speech_token",
    "flow_prompt_speech_token_len", "prompt_speech_feat", "prompt_speech_feat_len",
}  # fmt: skip
"""Keys that ``add_zero_shot_spk`` (cosyvoice/cli/cosyvoice.py) and older fine-tuning write."""


def read(path: Path) -> dict[str, Voice]:
    """Read the voices of ``spk2info.pt`` by name.

    One with an ``embedding`` alone is spoken without a recording before it; one with codes and mel
    is a prompt. Raises ``CheckpointError`` for anything but tensors of those shapes.
    """
    loaded = files.load_rows(path, "speaker presets")
    return {str(name): _voice(str(name), rows, path) for name, rows in loaded.items()}


def _voice(name: str, rows: Any, path: Path) -> Voice:
    """Turn one preset into a voice. Raises ``CheckpointError`` for other tensors than these."""
    odd = not isinstance(rows, dict) or set(rows) - NAMES
    if odd or not all(isinstance(row, Tensor) for row in rows.values()):
        raise _refuse(name, "it holds what no preset holds", path)
    conditioning = {}
    speaker = rows.get("flow_embedding", rows.get("embedding"))
    if speaker is not None:
        conditioning["speaker"] = speaker.flatten().float()  # [192]
    if "flow_prompt_speech_token" in rows and "prompt_speech_feat" in rows:
        codes = rows["flow_prompt_speech_token"].reshape(-1, 1).long()  # [P, 1]
        mel = rows["prompt_speech_feat"].float()  # [1, 2 P, 80]
        if mel.ndim != 3 or len(mel) != 1:
            raise _refuse(name, f"its mel has the shape {list(mel.shape)}", path)
        pairs = min(mel.shape[1] // RISE, len(codes))
        mel = mel[0, : RISE * pairs].clone()  # [2 P, 80]
        conditioning |= {"codes": codes[:pairs].clone(), "mel": mel}
    if not conditioning:
        raise _refuse(name, "it holds neither a speaker nor a recording", path)
    if not all(torch.isfinite(row).all() for row in conditioning.values()):
        raise _refuse(name, "its numbers are not finite", path)
    text = rows.get("prompt_text", torch.zeros(0)).flatten().tolist()
    speech = rows.get("llm_prompt_speech_token", torch.zeros(0)).flatten().tolist()
    return Voice(
        name=name,
        about=f"a speaker preset of {path.parent.name}",
        text=tuple(map(int, text)),
        speech=tuple((int(code),) for code in speech),
        heard=conditioning,
    )


def _refuse(name: str, why: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"The speaker preset '{name}' cannot be used: {why}.",
        str(path),
        "Make the preset again from its recording.",
    )
