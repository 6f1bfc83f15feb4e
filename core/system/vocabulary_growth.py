"""More ids of text than weights were trained with: a table that grows at its end.

Ids of marks follow all others, in the order of ``tokenizer.marks``, so old ids keep their rows. A
new row is the mean of the old ones: as likely to be anything as they are together. Nothing else
knows how many rows there are, and what the model says to old ids stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.config.compose import parse
from wishbone.core.contract.errors import CheckpointError

TABLE = "tables.text.weight"
"""The only tensor whose rows are ids of text."""


def grow(
    config: Mapping[str, Any], folder: Path, model: nn.Module, tensors: dict[str, Tensor]
) -> str:
    """Add the rows that ``model`` has and ``tensors``, out of ``folder``, have not yet.

    Returns what a person should know, or nothing. Only ``config.yaml`` beside the weights tells
    which marks they know; without one, or with another tokenizer, nothing is done and the shapes
    must agree. Raises ``CheckpointError`` where marks were taken away or moved.
    """
    old, new = _marks(_saved(folder)), _marks(config)
    table = tensors.get(TABLE)
    if old is None or new is None or old[0] != new[0] or table is None:
        return ""
    trained, configured = old[1], new[1]
    if configured[: len(trained)] != trained:
        raise CheckpointError(
            f"The weights know the marks {_listed(trained)}, and the system has"
            f" {_listed(configured)}: ids would change their meaning.",
            f"tokenizer.marks and {folder / 'config.yaml'}",
            "Write the marks of the weights first, in their order, and new ones behind them.",
        )
    added = configured[len(trained) :]
    rows = model.state_dict()[TABLE].shape[0] if TABLE in model.state_dict() else 0
    if not added or rows != len(table) + len(added):
        return ""
    tensors[TABLE] = grown(table, len(added))
    return f"the weights have never heard of {_listed(added)}: train them before use"


def grown(table: Tensor, count: int) -> Tensor:
    """table [N, D] -> [N + count, D], each new row the mean of the old ones, which stay as is."""
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(count, -1)])


def _marks(config: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Name and marks of the tokenizer; None where that has no list of marks."""
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, Mapping):
        return None
    marks = tokenizer.get("marks", [])
    return (str(tokenizer.get("name")), list(marks)) if isinstance(marks, list) else None


def _saved(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.yaml"
    return parse(path)[0] if path.is_file() else {}


def _listed(marks: list[str]) -> str:
    return ", ".join(marks) or "none"
