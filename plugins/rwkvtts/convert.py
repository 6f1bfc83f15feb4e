"""RWKVTTS's models for ``wishbone convert``, in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.converter import Converted, Converter
from wishbone.core.weights.files import write_tensors
from wishbone.core.weights.foreign import write_pickle
from wishbone.plugins.rwkv7.convert import FLA, fla_config
from wishbone.plugins.rwkvtts import names, release


class Raw(Converter):
    """A raw ``llm.pt``."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """A file, or the folder of a release in either form; old names of fla, too."""
        found = names.ours(release.tensors(source), str(source))
        config = {
            "layout": dict(found.family.layout),
            "backbone": found.backbone,
            "head": dict(found.family.head),
        }
        return Converted(self.slot, config, found.tensors, found.aside, found.account)

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """One ``.pt`` with fla's names of today. Raises ``CheckpointError``."""
        _check_eps(config)
        write_pickle(to, names.theirs(tensors, config, raw=True))


class HuggingFace(Raw):
    """The folder in Hugging Face's form."""

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """A new folder; the Python files that RWKVTTS puts beside it are not made."""
        _check_eps(config)
        named = names.theirs(tensors, config)
        with new_folder(to) as folder:
            write_tensors(folder / "model.safetensors", named)
            text = json.dumps(_config(config, named), indent=2)
            (folder / "config.json").write_text(text + "\n")


def _check_eps(config: Mapping[str, Any]) -> None:
    FLA.check_eps(config["backbone"])


def _config(config: Mapping[str, Any], named: Mapping[str, Tensor]) -> dict[str, object]:
    """``config.json``: fla's, and the sizes of what RWKVTTS adds."""
    family = names.family_of(config)
    width = config["backbone"]["width"]
    sizes: dict[str, object] = {}
    if family is names.COSY:
        rows = len(named["speech_embedding.weight"])
        sizes = {
            "vocab_size": len(named[names.TEXT]),
            "speech_token_size": rows - 1,
            "llm_input_size": width,
            "llm_output_size": width,
        }
    else:
        sizes = {
            "text_vocab_size": len(named["text_embedder.weight"]),
            "audio_global_vocab_size": len(named["global_embedder.weight"]),
        }
    return fla_config(config["backbone"], named) | {"architectures": ["RWKV7ForSpeech"]} | sizes
