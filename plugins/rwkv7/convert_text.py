"""A whole language model of RWKV-LM as a system of text, such as the official World models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.plugins.rwkv7.convert import RWKVLM

TABLES = {"tables.embedding": "head.table.weight", "tables.head": "head.output.weight"}
"""Theirs beside the backbone -> those of a linear head, which reads a table in both directions."""
END = 0
"""World's id for the end of a document, with which a text begins, too."""
PREFIX = "backbone."


class Text(Converter):
    """A ``.pth`` with its embedding and head <-> the folder of a system with ``task: text``."""

    slot = "model"

    def read(self, source: Path) -> Converted:
        """One file. Raises ``CheckpointError`` where it has no tables."""
        converted = RWKVLM().read(source)
        lost = sorted(TABLES.keys() - converted.tables.keys())
        if lost:
            raise CheckpointError(
                f"The file has a backbone without {', '.join(lost)}.",
                str(source),
                "Convert it with 'rwkv-lm', which takes a backbone alone.",
            )
        tensors = {PREFIX + name: tensor for name, tensor in converted.tensors.items()}
        tensors |= {TABLES[name]: tensor for name, tensor in converted.tables.items()}
        account = {
            foreign: TABLES.get(ours, ours if ours.startswith("left out") else PREFIX + ours)
            for foreign, ours in converted.account.items()
        }
        rows = len(converted.tables["tables.embedding"])
        config = {
            "task": "text",
            "tokenizer": {"name": "rwkv-world", "rows": rows, "marks": False},
            "backbone": converted.config,
            "head": {"name": "linear"},
            "end": END,
        }
        return Converted(self.slot, config, tensors, {}, account)

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """One ``.pth``, or ``.safetensors`` by its ending; needs a linear head without bias."""
        back = {ours: foreign for foreign, ours in TABLES.items()}
        renamed = {
            back.get(name, name.removeprefix(PREFIX)): tensor for name, tensor in tensors.items()
        }
        RWKVLM().write(renamed, config["backbone"], to)
