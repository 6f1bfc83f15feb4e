"""A checkpoint is a folder: ``model.safetensors``, ``config.yaml`` and ``provenance.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wishbone.core.config.compose import dump
from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.weights.tensor_files import FILE, write_tensors


def save(
    folder: str | Path,
    module: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> Path:
    """Write a checkpoint folder, which appears when it is complete.

    ``config`` is the resolved configuration, ``origin`` the result of ``provenance``. Raises
    ``CheckpointError`` if ``folder`` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(
            "The checkpoint exists already and is not overwritten.",
            str(folder),
            "Choose another folder, or move this one away.",
        )
    with new_folder(folder) as temporary:
        write_tensors(temporary / FILE, module)
        (temporary / "config.yaml").write_text(dump(config), encoding="utf-8")
        text = json.dumps(dict(origin), indent=2, ensure_ascii=False, default=str)
        (temporary / "provenance.json").write_text(text + "\n", encoding="utf-8")
    return folder
