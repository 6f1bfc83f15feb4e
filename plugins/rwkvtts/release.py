"""Find the language model of a release of RWKVTTS and read it for ``weights: FOLDER``.

A release is a folder with ``llm.pt``, or with ``ConvertedCosyLLM/`` in Hugging Face's form, beside
CosyVoice2's ``flow.pt``, ``hift.pt`` and the rest. The folder in Hugging Face's form alone will do,
too, and so will ReSpark's. Its Python files are never imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.release import Found, ReleaseReader
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.speak.voice import Voice
from wishbone.core.weights import folders
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.cosyvoice2.release import files, presets, settings
from wishbone.plugins.rwkvtts import names

CONVERTED = "ConvertedCosyLLM"
"""Folder of Hugging Face's form inside a release."""
MODELS = ("RWKV7ForSpeech", "RWKV7CosyLM")
"""``architectures`` in the config.json of Hugging Face's form."""


class Release(ReleaseReader):
    """Folders of RWKVTTS, raw or converted."""

    def holds(self, folder: Path) -> bool:
        """Tell whether the folder is RWKVTTS's, by its file names and config.json."""
        if (folder / files.LANGUAGE_MODEL).is_file():
            return files.body_type(folder) == "rwkv7"
        return (folder / CONVERTED).is_dir() or _architecture(folder) in MODELS

    def language_model(self, folder: Path, model: SpeechLM) -> Found:
        """Read all tensors, for a model of the same sizes. Raises ``CheckpointError``."""
        values = settings.read(folder)
        settings.check(values, {"llm.llm_input_size": model.backbone.width}, str(folder))
        released = names.to_our_names(tensors(folder), str(folder))
        _check_size(released.backbone, model, folder)
        return Found(released.tensors)

    def voices(self, folder: Path) -> dict[str, Voice]:
        """Read the speaker presets of ``spk2info.pt``, by name."""
        path = folder / files.PRESETS
        return presets.read(path) if path.is_file() else {}


def _check_size(stated: dict[str, Any], model: SpeechLM, folder: Path) -> None:
    """Refuse other sizes in one sentence instead of with a thousand names."""
    if type(model.backbone).__name__ != "RWKV7":
        raise CheckpointError(
            f"The release holds an RWKV-7, the system's backbone is a"
            f" {type(model.backbone).__name__}.",
            str(folder),
            "Use the system rwkvtts, or name the release of another model.",
        )
    config = model.backbone.config
    differ = {
        key: value
        for key, value in stated.items()
        if key in ("width", "layers", "head_size") and getattr(config, key) != value
    }
    sizes_here = _inner_sizes(model.backbone)
    differ |= {
        key: stated[key] for key, size in sizes_here.items() if stated.get(key, size) != size
    }
    if abs(config.group_norm_eps / stated["group_norm_eps"] - 1) > 1e-6:
        differ["group_norm_eps"] = stated["group_norm_eps"]
    if differ:
        sizes = ", ".join(f"{key}: {value}" for key, value in differ.items())
        raise CheckpointError(
            f"The release's RWKV-7 has other sizes than the system's backbone: {sizes}.",
            str(folder),
            f"Write 'backbone: {{{sizes}}}' into the system.",
        )


def _inner_sizes(backbone: nn.Module) -> dict[str, int]:
    """Ranks and inner width that an RWKV-7 was built with, where its configuration says 0, too."""
    last = backbone.blocks[-1]  # the first block has no value rank
    factors = {"decay_rank": "w1", "rate_rank": "a1", "value_rank": "v1", "gate_rank": "g1"}
    sizes = {
        key: getattr(last.time_mix, name).shape[1]
        for key, name in factors.items()
        if hasattr(last.time_mix, name)
    }
    return sizes | {"ffn_width": last.channel_mix.key.weight.shape[0]}


def tensors(source: str | Path) -> dict[str, Tensor]:
    """Read the language model's tensors by their names; ``source`` is a file or a folder.

    Raises ``CheckpointError`` for a file that is missing, cut short, or holds more than tensors.
    """
    source = Path(source)
    if source.is_dir():
        if (source / CONVERTED).is_dir():
            source = source / CONVERTED
        paths = folders.files(source) or [source / files.LANGUAGE_MODEL]
    else:
        paths = [source]
    result: dict[str, Tensor] = {}
    for file in paths:
        pickled = file.suffix != ".safetensors"
        part = files.load_tensors(file, "language model") if pickled else read_tensors(file)
        twice = sorted(result.keys() & part.keys())
        if twice:
            raise CheckpointError(
                f"Two files have {', '.join(twice[:3])}.", str(file), "Download it again."
            )
        result |= part
    return result


def _architecture(folder: Path) -> str:
    """Read the first of ``architectures`` in config.json; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""
