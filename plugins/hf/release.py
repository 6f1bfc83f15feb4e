"""Folders of the hub, config.json beside .safetensors, for ``backbone: {weights: FOLDER}``."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.release import Found, ReleaseReader


class Release(ReleaseReader):
    """A language model of transformers as its authors published it."""

    def holds(self, folder: Path) -> bool:
        """Tell whether config.json names a family, and tensors are beside it."""
        path = folder / "config.json"
        if not path.is_file() or (folder / "config.yaml").exists():
            return False
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        family = values.get("model_type") if isinstance(values, dict) else None
        if not isinstance(family, str) or "rwkv" in str(values.get("architectures")).lower():
            return False
        return any(folder.glob("*.safetensors"))

    def language_model(self, folder: Path, model: nn.Module) -> Found:
        """Read the tensors of a backbone ``hf``. Raises ``CheckpointError`` for another model."""
        read = getattr(model, "release_tensors", None)
        if read is None:
            raise CheckpointError(
                f"This is a model of text, and a {type(model).__name__} has other tensors.",
                str(folder),
                "Name it for the backbone alone: backbone: {name: hf, weights: FOLDER}.",
            )
        return Found(read(folder))
