"""More ids of text than weights were trained with: a table that grows at its end.

The ids of tags, the key ``tokenizer.marks``, follow all others in the order of that list, so old
ids keep their rows. A new row is the mean of the old ones: as likely to be anything as they are
together. Nothing else depends on the number of rows, so the model's answers to old ids stay the
same to the bit.
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
    """Add the rows that ``model`` has and ``tensors``, out of ``folder``, have not -> a note.

    The tags of the weights are in ``config.yaml`` beside them; without one, or with another
    tokenizer, nothing is done and the shapes must agree. The note is for people, empty where
    nothing grew. Raises ``CheckpointError`` where tags were taken away or moved.
    """
    old, new = _tags(_saved_config(folder)), _tags(config)
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
    """table [N, D] -> [N + count, D], each new row the mean of the unchanged old ones."""
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)  # [1, D]
    return torch.cat([table, mean.expand(count, -1)])  # [N + count, D]


def _tags(config: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Name and tags of the tokenizer; None where it has no list of tags."""
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, Mapping):
        return None
    tags = tokenizer.get("marks", [])
    return (str(tokenizer.get("name")), list(tags)) if isinstance(tags, list) else None


def _saved_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.yaml"
    return parse(path)[0] if path.is_file() else {}


def _listed(tags: list[str]) -> str:
    return ", ".join(tags) or "none"
