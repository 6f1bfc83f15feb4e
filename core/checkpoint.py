"""A checkpoint is a folder: ``model.safetensors``, ``config.yaml`` and ``provenance.json``."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wishbone.core.compose import dump
from wishbone.core.errors import CheckpointError
from wishbone.core.weight_files import FILE, write_tensors


def save(
    folder: str | Path,
    module: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> Path:
    """Write a checkpoint folder at once: it is either all there or not there.

    ``config`` is the resolved configuration, ``origin`` what ``provenance`` returns. Raises
    ``CheckpointError`` if ``folder`` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(
            "The checkpoint exists already and is not overwritten.",
            str(folder),
            "Choose another folder, or move this one away.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_tensors(aside / FILE, module)
        (aside / "config.yaml").write_text(dump(config), encoding="utf-8")
        text = json.dumps(dict(origin), indent=2, ensure_ascii=False, default=str)
        (aside / "provenance.json").write_text(text + "\n", encoding="utf-8")
        # mkdtemp makes a folder only its owner may enter; a checkpoint is an ordinary folder
        aside.chmod(0o755)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return folder
