"""Arms that no system of this process speaks: a folder of recordings, or a server elsewhere.

Nothing is known of how they were made, so nothing about their parts is compared or refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from wishbone.core.config.compose import Config
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Range

KEY = "outside"
"""Key of the configuration of such an arm, which has no other."""
ENDINGS = (".wav", ".flac", ".ogg", ".opus")
"""Endings of recordings."""


@dataclass(frozen=True)
class Outside:
    """Keys of an arm that comes from outside."""

    audio: str = ""
    """Folder of recordings of the prompts: 000.wav, 001.wav, ... by the line from 0, or by the
    names that the list of prompts gives."""
    url: str = ""
    """Address of a server with OpenAI's speech interface, such as ``http://127.0.0.1:8880``."""
    model: str = ""
    """Name of the model there."""
    voice: str = ""
    """Name of the voice there; empty: the A/B's, else "default"."""
    seed: bool = True
    """True sends the seed of every item, a field beyond OpenAI's; some servers refuse it."""
    token: str = ""
    """Name of the environment variable that holds a token for the server."""
    patience: Annotated[float, Range(1)] = 120.0
    """Seconds without a byte after which an item is given up."""


def read_outside(entry: Mapping[str, Any], key: str, folder: Path, values: Config) -> Config:
    """Read an arm from outside; ``folder`` is that of the A/B file. Raises ``ConfigError``."""
    place = f"ab.arms.{key}"
    # null takes back what the file says, such as its folder where a command names a server
    fields = {k: v for k, v in entry.items() if k != "levels" and v is not None}
    parsed: Outside = structured(Outside, fields, place, values)
    if bool(parsed.audio) == bool(parsed.url) or bool(parsed.url) != bool(parsed.model):
        raise ConfigError(
            f"The arm '{key}' does not say where its speech comes from.",
            values.place(f"arms.{key}"),
            "Write '{audio: FOLDER}', or '{url: http://HOST:PORT, model: NAME}'.",
        )
    if parsed.url and not parsed.url.startswith(("http://", "https://")):
        raise ConfigError(
            f"'{parsed.url}' is no address of a server.",
            values.place(f"arms.{key}"),
            "Write one that begins with http:// or https://.",
        )
    changed = {k: v for k, v in asdict(parsed).items() if v != getattr(Outside(), k)}
    if parsed.audio and (folder / parsed.audio).is_dir():
        changed["audio"] = str(folder / parsed.audio)
    return Config({KEY: changed})


def outside_of(config: Mapping[str, Any]) -> Outside | None:
    """The keys of an arm from outside; None for a system."""
    return Outside(**config[KEY]) if KEY in config else None


def recordings_hash(config: Mapping[str, Any]) -> dict[str, str]:
    """Name of every recording of an arm -> SHA-256 of what it holds; empty for all but a folder."""
    outside = outside_of(config)
    if outside is None or not outside.audio:
        return {}
    files = recordings_in(Path(outside.audio))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def refuse_recordings(configs: Sequence[Mapping[str, Any]], place: str) -> None:
    """Raise ``ConfigError`` at ``place`` where an arm is a folder: its voices are there."""
    if any("audio" in config.get(KEY, {}) for config in configs):
        raise ConfigError(
            "Recordings of an arm have the voices that they have.",
            place,
            "Leave 'voices' out, or compare systems or servers.",
        )


def recordings_in(folder: Path) -> list[Path]:
    """The recordings of a folder, in the order of their names; empty without the folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
