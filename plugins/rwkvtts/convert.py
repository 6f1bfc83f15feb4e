"""RWKVTTS's models for ``wishbone convert``, in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.weights.foreign import write_pickle
from wishbone.core.weights.tensor_files import write_tensors
from wishbone.plugins.rwkv7.convert import FLA, fla_config
from wishbone.plugins.rwkvtts import names, release


class Raw(Converter):
    """Convert a raw ``llm.pt``."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """Read a file, or the folder of a release in either form; old names of fla, too."""
        model = names.to_our_names(release.tensors(source), str(source))
        config = {
            "layout": dict(model.family.layout),
            "backbone": model.backbone,
            "head": dict(model.family.head),
        }
        return Converted(self.slot, config, model.tensors, model.aside, model.account)

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write one ``.pt`` with fla's names of today. Raises ``CheckpointError``."""
        _check_eps(config)
        write_pickle(to, names.to_release_names(tensors, config, raw=True))


class HuggingFace(Raw):
    """Convert the folder in Hugging Face's form."""

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write a new folder; the Python files that RWKVTTS puts beside it are not made."""
        _check_eps(config)
        renamed = names.to_release_names(tensors, config)
        with new_folder(to) as folder:
            write_tensors(folder / "model.safetensors", renamed)
            text = json.dumps(_config(config, renamed), indent=2)
            (folder / "config.json").write_text(text + "\n")


def _check_eps(config: Mapping[str, Any]) -> None:
    FLA.check_eps(config["backbone"])


def _config(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Fill ``config.json``: fla's fields, and the sizes of the tables that RWKVTTS adds."""
    family = names.family_of(config)
    width = config["backbone"]["width"]
    sizes: dict[str, object] = {}
    if family is names.COSY:
        rows = len(tensors["speech_embedding.weight"])
        sizes = {
            "vocab_size": len(tensors[names.TEXT]),
            "speech_token_size": rows - 1,
            "llm_input_size": width,
            "llm_output_size": width,
        }
    else:
        sizes = {
            "text_vocab_size": len(tensors["text_embedder.weight"]),
            "audio_global_vocab_size": len(tensors["global_embedder.weight"]),
        }
    return fla_config(config["backbone"], tensors) | {"architectures": ["RWKV7ForSpeech"]} | sizes
