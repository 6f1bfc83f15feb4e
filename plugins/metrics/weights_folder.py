"""Weights that no package brings: a metric reads them from a folder that its options name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wishbone.core.contract.errors import ConfigError

FILE = "model.safetensors"


@dataclass
class WeightsOptions:
    """Options of a metric whose weights lie in a folder."""

    weights: str = ""
    """Folder with the weights, as its model's page offers them."""


def folder_of(key: str, options: WeightsOptions, files: tuple[str, ...] = (FILE,)) -> Path:
    """The folder that the options name. Raises ``ConfigError`` where it or a file is missing."""
    do = (
        f"Write 'metrics: [{{name: {key}, weights: FOLDER}}]'; plugins/metrics/README.md says more."
    )
    if not options.weights:
        raise ConfigError(
            f"The metric '{key}' has its weights in a folder, and none is named.",
            f"metrics.{key}",
            do,
        )
    folder = Path(options.weights).expanduser()
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"The weights of the metric '{key}' are not there: {', '.join(missing)}.",
            str(folder),
            do,
        )
    return folder


def digest_of(folder: Path, name: str = FILE) -> str:
    """First digits of the SHA-256 of a file of weights, for the signature."""
    with (folder / name).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
