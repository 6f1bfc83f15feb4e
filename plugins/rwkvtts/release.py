"""Where the language model of a release of RWKVTTS is, and what ``weights: FOLDER`` does with it.

A release is a folder with ``llm.pt``, or with ``ConvertedCosyLLM/`` in Hugging Face's form, beside
CosyVoice2's ``flow.pt``, ``hift.pt`` and the rest. The folder in Hugging Face's form alone will do,
too, and so will ReSpark's. Its Python files are never imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.release import Found, ReleaseReader
from wishbone.core.weights import foreign
from wishbone.core.weights.files import read_tensors
from wishbone.plugins.cosyvoice2.release import files as release
from wishbone.plugins.cosyvoice2.release import settings
from wishbone.plugins.rwkvtts import names

if TYPE_CHECKING:
    from wishbone.core.model.speech_lm import SpeechLM
    from wishbone.core.speak.voice import Voice

CONVERTED = "ConvertedCosyLLM"
"""Folder of Hugging Face's form inside a release."""
MODELS = ("RWKV7ForSpeech", "RWKV7CosyLM")
"""``architectures`` in the config.json of Hugging Face's form."""


class Release(ReleaseReader):
    """Folders of RWKVTTS, raw or converted."""

    def holds(self, folder: Path) -> bool:
        """Whether the folder is RWKVTTS's; looks at names and at config.json."""
        if (folder / release.LANGUAGE_MODEL).is_file():
            return release.body(folder) == "rwkv7"
        return (folder / CONVERTED).is_dir() or _architecture(folder) in MODELS

    def language_model(self, folder: Path, model: SpeechLM) -> Found:
        """The whole model, for one of the same sizes. Raises ``CheckpointError``."""
        stated = settings.read(folder)
        settings.check(stated, {"llm.llm_input_size": model.backbone.width}, str(folder))
        found = names.ours(tensors(folder), str(folder))
        _check_size(found.backbone, model, folder)
        return Found(found.tensors)

    def voices(self, folder: Path) -> dict[str, Voice]:
        """The speaker presets of ``spk2info.pt``, by name."""
        from wishbone.plugins.cosyvoice2.release.presets import read

        path = folder / release.PRESETS
        return read(path) if path.is_file() else {}


def _check_size(stated: dict[str, Any], model: SpeechLM, folder: Path) -> None:
    """One sentence instead of a thousand names where the sizes differ."""
    if type(model.backbone).__name__ != "RWKV7":
        raise CheckpointError(
            f"The release holds an RWKV-7, the system's backbone is a"
            f" {type(model.backbone).__name__}.",
            str(folder),
            "Use the system rwkvtts, or name the release of another model.",
        )
    own = model.backbone.config
    differ = {
        key: value
        for key, value in stated.items()
        if key in ("width", "layers", "head_size") and getattr(own, key) != value
    }
    ranks = {key: value for key, value in stated.items() if key.endswith(("_rank", "ffn_width"))}
    shape = model.backbone.shape
    differ |= {key: value for key, value in ranks.items() if getattr(shape, key) != value}
    if abs(own.group_norm_eps / stated["group_norm_eps"] - 1) > 1e-6:
        differ["group_norm_eps"] = stated["group_norm_eps"]
    if differ:
        said = ", ".join(f"{key}: {value}" for key, value in differ.items())
        raise CheckpointError(
            f"The release's RWKV-7 has other sizes than the system's backbone: {said}.",
            str(folder),
            f"Write 'backbone: {{{said}}}' into the system.",
        )


def tensors(source: str | Path) -> dict[str, Tensor]:
    """Tensors of the language model by their names; ``source`` is a file or a folder.

    Raises ``CheckpointError`` for a file that is missing, cut short, or holds more than tensors.
    """
    source = Path(source)
    if source.is_dir():
        if (source / CONVERTED).is_dir():
            source = source / CONVERTED
        files = foreign.files(source) or [source / release.LANGUAGE_MODEL]
    else:
        files = [source]
    found: dict[str, Tensor] = {}
    for file in files:
        pickled = file.suffix != ".safetensors"
        part = release.load_tensors(file, "language model") if pickled else read_tensors(file)
        twice = sorted(found.keys() & part.keys())
        if twice:
            raise CheckpointError(
                f"Two files have {', '.join(twice[:3])}.", str(file), "Download it again."
            )
        found |= part
    return found


def _architecture(folder: Path) -> str:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        return str(found[0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""
