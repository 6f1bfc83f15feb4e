"""Adapted backbones for ``wishbone convert``: to an ordinary one, or to a peft folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.config.compose import Config
from wishbone.core.config.schema import innermost, structured
from wishbone.core.contract.errors import CapabilityError, CheckpointError, UsageError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.system.build import build_model
from wishbone.core.system.loading import load_tensors
from wishbone.core.system.spec import read
from wishbone.plugins.peft.backbone import PEFT
from wishbone.plugins.peft.files import write_adapter
from wishbone.plugins.peft.layers import DEFAULT
from wishbone.plugins.peft.names import QWEN2, fused_rows

KEY = "peft"
"""Registry key of the adapted backbone."""


class Merge(Converter):
    """Multiply the adapters of a system into its weights, so that it needs no peft."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """Read a trained model's folder, or a system's YAML file, whose backbone is ``peft``."""
        config = read(str(source))
        _check_key(config["backbone"], source)
        model = build_model(config)
        adapted: Any = model.backbone
        merged = {f"backbone.{n}": t for n, t in adapted.merged().state_dict().items()}
        tensors = model.state_dict()
        back = {f"backbone.{at}": f"backbone.{n}" for n, at in adapted.base_names().items()}
        account = {
            name: back.get(name, name if name in merged or not _inside(name) else _GONE)
            for name in tensors
        }
        outside = {name: tensor for name, tensor in tensors.items() if not _inside(name)}
        sections = {k: v for k, v in config.items() if k != "weights"}
        base = {k: v for k, v in config["backbone"]["base"].items() if k != "weights"}
        return Converted("model", sections | {"backbone": base}, outside | merged, {}, account)


class Folder(Converter):
    """Write the adapter of a trained model as a folder of Hugging Face's peft, under our names."""

    slot = "backbone"
    style = ""

    def read(self, source: Path) -> Converted:
        """Raise ``UsageError``: such a folder needs no conversion."""
        raise UsageError(
            "An adapter of peft is used where it lies, and is not converted.",
            str(source),
            "Name it in a peft backbone: 'start: {weights: FOLDER}' to train or merge it, or under"
            " 'adapters:'.",
        )

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write ``tensors`` and ``config`` of a peft backbone -> the folder ``to``."""
        _check_key(config, to)
        fields = {key: value for key, value in config.items() if key not in ("name", "weights")}
        backbone = PEFT(structured(PEFT.Config, fields, "backbone", Config({})))
        load_tensors(backbone, tensors, "the checkpoint to convert")
        adapter, rows = backbone.learned(DEFAULT), fused_rows(backbone.base)
        self._check_style(adapter.layers, config)
        write_adapter(adapter, to, self.style, rows)

    def _check_style(self, layers: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        fused = any(name.split(".", 2)[-1] in QWEN2 for name in layers)
        if self.style and (self.style == "qwen2") != fused:
            raise CapabilityError(
                f"The layers of '{innermost(config)['name']}' have no names in {self.style}.",
                f"wishbone convert peft-{self.style}",
                "Take peft-fla for RWKV-7, peft-qwen2 for the transformer, or plain peft.",
            )


class FlaFolder(Folder):
    """Write it under the names of flash-linear-attention's RWKV-7."""

    style = "fla"


class Qwen2Folder(Folder):
    """Write it under the names of transformers' Qwen2."""

    style = "qwen2"


_GONE = "left out: it is multiplied into the weights"


def _inside(name: str) -> bool:
    return name.startswith("backbone.")


def _check_key(section: Mapping[str, Any], where: Path) -> None:
    if section.get("name") != KEY:
        raise CheckpointError(
            f"The backbone is '{section.get('name')}', which has no adapters of this kind.",
            str(where),
            f"Give a system whose backbone is '{KEY}'.",
        )
