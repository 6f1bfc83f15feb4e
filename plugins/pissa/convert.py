"""PiSSA systems for ``wishbone convert``: merged, without the base, or as a LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.config.compose import Config, compose
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.system.loading import load_tensors
from wishbone.core.system.spec import read
from wishbone.core.weights.tensor_files import FILE, read_tensors
from wishbone.plugins.peft.files import write_adapter
from wishbone.plugins.pissa.backbone import PiSSA
from wishbone.plugins.pissa.targets import merged_state

KEY = "pissa"
INSIDE = "backbone.base."
"""Beginning of the names of the base's tensors in a complete model."""
FACTORS = ("A", "B", "A0", "B0")


class Merged(Converter):
    """Turn a system that speaks through PiSSA into an ordinary one, differences in its weights."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """Read a trained model's folder whose backbone is ``pissa``."""
        config, tensors = _config_and_tensors(source)
        base = {k: v for k, v in config["backbone"]["base"].items() if k != "weights"}
        merged = {_plain(name): tensor for name, tensor in merged_state(tensors).items()}
        reason = "left out: it is multiplied into the weights"
        account = {n: _plain(n) if _plain(n) in merged else reason for n in tensors}
        sections = {k: v for k, v in config.items() if k != "weights"}
        return Converted("model", sections | {"backbone": base}, merged, {}, account)


class Alone(Converter):
    """Leave the base out, whose folder is named: what the mode adds to a text model."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """Read a trained model's folder. Raises ``UsageError`` where the base names no weights."""
        config, tensors = _config_and_tensors(source)
        if not config["backbone"]["base"].get("weights"):
            raise UsageError(
                "The base of this system does not name a folder of weights, so it must stay here.",
                str(source / "config.yaml"),
                "Add 'weights: FOLDER' to 'backbone: base:'.",
            )
        remaining = {n: t for n, t in tensors.items() if not _of_base(n)}
        reason = "left out: it is the base's, and lies in its folder"
        account = {name: name if name in remaining else reason for name in tensors}
        sections = {k: v for k, v in config.items() if k != "weights"}
        return Converted("model", sections, remaining, {}, account)


class Folder(Converter):
    """Write what a PiSSA backbone learned as a LoRA of rank 2 r, in a folder of ``peft``."""

    slot = "backbone"

    def read(self, source: Path) -> Converted:
        """Raise ``UsageError``: such a folder needs no conversion."""
        raise UsageError(
            "An adapter of peft is used where it lies, and is not converted.",
            str(source),
            "Name it in a pissa backbone: 'start: {weights: FOLDER}'.",
        )

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write ``tensors`` and ``config`` of a pissa backbone -> the folder ``to``."""
        _check_key(config, to)
        fields = {key: value for key, value in config.items() if key not in ("name", "weights")}
        backbone = PiSSA(structured(PiSSA.Config, fields, "backbone", Config({})))
        load_tensors(backbone, tensors, "the checkpoint to convert")
        write_adapter(backbone.learned(), to)


def _config_and_tensors(source: Path) -> tuple[Config, dict[str, Tensor]]:
    config = read(str(source)) if "decoder" in compose(str(source)) else compose(str(source))
    _check_key(config.get("backbone") or {}, source)
    tensors = read_tensors(Path(source) / FILE)
    if not any(_of_base(name) for name in tensors):
        raise CheckpointError(
            "The folder has no tensors of the base.",
            str(source),
            "Give the folder that the training exported.",
        )
    return config, tensors


def _plain(name: str) -> str:
    return name.replace(INSIDE, "backbone.", 1) if name.startswith(INSIDE) else name


def _of_base(name: str) -> bool:
    return name.startswith(INSIDE) and name.rpartition(".")[2] not in FACTORS


def _check_key(section: Mapping[str, Any], where: Path) -> None:
    if section.get("name") != KEY:
        raise CheckpointError(
            f"The backbone is '{section.get('name')}', which PiSSA did not adapt.",
            str(where),
            f"Give a system whose backbone is '{KEY}'.",
        )
