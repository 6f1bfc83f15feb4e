"""What an A/B compares: the file that describes it, read and checked before anything is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.compose import Config, bundled, compose
from wishbone.core.config import read, structured
from wishbone.core.errors import ConfigError
from wishbone.core.evaluate.clips import read_lines
from wishbone.core.evaluate.metrics import Metric, choose

QUICK = 6
"""Prompts of ``--quick``: enough to see that everything works, and nothing else."""


@dataclass
class Experiment:
    """What the YAML file of an A/B may say."""

    about: str = ""
    """A sentence for people."""
    arms: dict[str, Any] = field(default_factory=dict)
    """Name -> a system (name or path), or ``{system: ..., set: [key=value, ...]}``. The first is
    the baseline that the others are compared with."""
    vary: list[str] = field(default_factory=lambda: ["backbone"])
    """Keys of the system that may differ; weights differ with them. All else must be equal."""
    prompts: str = "prompts-en.txt"
    """File of sentences, one a line; looked for beside the YAML file, then among the bundled."""
    limit: int = 0
    """Only the first so many prompts; 0 means all."""
    seeds: int = 1
    """How often each arm speaks each prompt."""
    seed: int = 1
    """Every item's seed follows from this and its prompt, and is the same for all arms."""
    margins: dict[str, float] = field(default_factory=dict)
    """Metric -> largest difference that counts as equivalent."""
    voice: str = ""
    """Voice of all arms; empty means each system's own."""
    reference: str = ""
    """Folder of the same prompts spoken by the voice that is imitated: what the metrics say of it
    is shown beside the arms, and likeness is measured against it."""


@dataclass(frozen=True)
class Prompt:
    """A sentence to speak."""

    key: str
    """Its line in the file, from 0, three digits."""
    text: str


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    key: str
    system: str
    """What the A/B file calls it."""
    config: Config
    """Resolved."""


@dataclass
class Plan:
    """Everything that decides the result of an A/B."""

    name: str
    about: str
    arms: list[Arm]
    prompts: list[Prompt]
    seeds: int
    seed: int
    vary: list[str]
    metrics: dict[str, Metric]
    voice: str | None
    reference: Path | None
    quick: bool

    def seed_of(self, prompt: Prompt, repeat: int) -> int:
        """Seed of one item: from the base seed and the prompt, not from its place in the run."""
        return seed_of(self.seed, prompt, repeat)

    def fingerprint(self) -> str:
        """Changes with anything that changes an item, so that a run is only resumed as itself.

        The number of prompts is left out: a larger run may go on from a smaller one. So are their
        texts, from which the seed of each item follows: a changed prompt is spoken again.
        """
        said = {
            "arms": {arm.key: dict(arm.config) for arm in self.arms},
            "weights": {arm.key: weights_hash(arm.config) for arm in self.arms},
            "seed": self.seed,
            "voice": self.voice,
            "reference": self._reference_files(),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def _reference_files(self) -> list[tuple[str, int]]:
        if self.reference is None:
            return []
        return sorted((p.name, p.stat().st_size) for p in self.reference.iterdir() if p.is_file())


def seed_of(base: int, prompt: Prompt, repeat: int) -> int:
    """Seed of one item, below 2^31: from the base seed and the prompt, not from the run."""
    words = f"{base}/{prompt.key}/{prompt.text}/{repeat}"
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") >> 1


def read_plan(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    prompts: int | None = None,
    seeds: int | None = None,
    quick: bool = False,
) -> Plan:
    """Read an A/B file. ``prompts`` and ``seeds`` replace its own. Raises ``ConfigError``."""
    values = compose(name_or_path, overrides, kind="ab")
    places = {f"ab.{key}": place for key, place in values.places.items()}
    said: Experiment = structured(Experiment, values, "ab", Config(values, values.path, places))
    _check(said, values)
    folder = values.path.parent if values.path else Path()
    lines = read_lines(_find(said.prompts, folder, values.place("prompts")))
    limit = QUICK if quick and prompts is None else (prompts or said.limit or len(lines))
    if limit > len(lines):
        raise ConfigError(
            f"{limit} prompts are wanted and the file has {len(lines)}.",
            values.place("prompts"),
            "Ask for fewer, or name a longer file under 'prompts'.",
        )
    reference = _find(said.reference, folder, values.place("reference")) if said.reference else None
    return Plan(
        name=values.path.stem if values.path else "ab",
        about=said.about,
        arms=[_arm(key, value, folder, values) for key, value in said.arms.items()],
        prompts=[Prompt(f"{i:03d}", text) for i, text in enumerate(lines[:limit])],
        seeds=seeds or said.seeds,
        seed=said.seed,
        vary=said.vary,
        metrics=choose(said.margins),
        voice=said.voice or None,
        reference=reference,
        quick=quick,
    )


def weights_files(config: Config) -> list[Path]:
    """Files of weights that a system reads, in a fixed order."""
    from wishbone.core.compose import weights_folder

    named = [config.get("weights"), *(v.get("weights") for v in config.values() if _is_slot(v))]
    folders = dict.fromkeys(weights_folder(name) for name in named if name)
    return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def weights_hash(config: Config) -> dict[str, str]:
    """Folder and name of every file of weights -> SHA-256 of what it holds."""
    found = {}
    for file in weights_files(config):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found[f"{file.parent.name}/{file.name}"] = digest
    return found


def _is_slot(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value


def _check(said: Experiment, values: Config) -> None:
    if len(said.arms) < 2:
        raise ConfigError(
            f"An A/B needs at least two arms, and this has {len(said.arms)}.",
            values.place("arms"),
            "Write 'arms: {one: SYSTEM, other: SYSTEM}'.",
        )
    for key in said.arms:
        if not str(key).replace("-", "").replace("_", "").isalnum() or key == "reference":
            raise ConfigError(
                f"'{key}' cannot be the name of an arm.",
                values.place(f"arms.{key}"),
                "Use letters, digits and hyphens; 'reference' has a meaning of its own.",
            )
    for key in ("limit", "seeds", "seed"):
        if getattr(said, key) < (1 if key == "seeds" else 0):
            raise ConfigError(
                f"'{key}' is {getattr(said, key)}.", values.place(key), "Write a larger number."
            )


def _arm(key: str, value: Any, folder: Path, values: Config) -> Arm:
    if isinstance(value, str):
        value = {"system": value}
    if not isinstance(value, dict) or "system" not in value or set(value) - {"system", "set"}:
        raise ConfigError(
            f"The arm '{key}' does not say which system it is.",
            values.place(f"arms.{key}"),
            "Write a system's name, or '{system: NAME, set: [key=value]}'.",
        )
    system = str(value["system"])
    beside = [folder / system, folder / f"{system}.yaml"]
    where = next((path for path in beside if path.is_file()), system)
    return Arm(str(key), system, read(where, [str(word) for word in value.get("set") or []]))


def _find(name: str, folder: Path, place: str) -> Path:
    for path in (folder / name, bundled() / "ab" / name, Path(name)):
        if path.exists():
            return path
    raise ConfigError(
        f"There is no '{name}'.", place, "Give a path beside the A/B file, or a bundled name."
    )
