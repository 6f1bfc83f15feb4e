"""A configuration, parsed once: what every slot is made of, checked before any weight is read.

``compose`` gives a dictionary, ``parse`` makes a ``SystemSpec`` of it, and everything is built
from that. ``SystemSpec.config`` is the dictionary with every field of every slot, as it is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import Config, compose
from wishbone.core.config.schema import SlotSpec, innermost, parse_slot, structured
from wishbone.core.config.tasks import SPEECH, TEXT, Task, task_of
from wishbone.core.contract.backbone import require_caps
from wishbone.core.contract.errors import ConfigError, did_you_mean
from wishbone.core.model.sampling import Sampling
from wishbone.core.registry.loader import registry


@dataclass(frozen=True)
class SystemSpec:
    """Everything a configuration says, with types; nothing is built yet."""

    task: Task
    slots: Mapping[str, SlotSpec]
    """By name, in the order of ``task.slots``."""
    config: Config
    """The same as a dictionary: saved with ``dump`` and read again it is equal."""
    weights: str | None = None
    """Folder of the language model's weights."""
    voice: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    end: int = -1
    """Of a text system: the id around a text; -1 means one more than the tokenizer has."""


@dataclass
class TextFields:
    """The keys of a text system that are no slots."""

    end: int = -1
    """Id that stands before and after a text; -1 means one more than the tokenizer has."""


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A system's configuration, resolved: every field of every slot is there and has its type.

    ``overrides`` are ``"backbone.width=256"``. Saved with ``dump`` and read again it is the same.
    Raises ``ConfigError`` naming file, line and full key; ``UnknownName``; ``PluginError``.
    """
    return resolve(compose(name_or_path, overrides))


def resolve(config: Mapping[str, Any]) -> Config:
    """``config`` with every slot checked against its schema and filled with its defaults."""
    return parse(config).config


def parse(config: Mapping[str, Any] | SystemSpec) -> SystemSpec:
    """Check a configuration and give every slot its class and its typed fields.

    One that is parsed already is returned as it is. Errors as those of ``read``.
    """
    if isinstance(config, SystemSpec):
        return config
    config = config if isinstance(config, Config) else Config(config)
    task = task_of(config)
    _check_keys(config, task)
    slots = {slot: parse_slot(config, slot) for slot in task.slots}
    sampling, end = Sampling(), -1
    if "sampling" in task.keys:
        sampling = structured(Sampling, config.get("sampling") or {}, "sampling", config)
    if "end" in task.keys:
        stated = {"end": config["end"]} if "end" in config else {}
        end = structured(TextFields, stated, task.name, config).end
    resolved: dict[str, Any] = {}
    for key in task.keys:
        if key in slots:
            resolved[key] = slots[key].values
        elif key in ("task", "end", "sampling"):
            resolved[key] = {"task": task.name, "end": end, "sampling": asdict(sampling)}[key]
        elif config.get(key) is not None:
            resolved[key] = config[key]
    return SystemSpec(
        task,
        slots,
        Config(resolved, config.path, config.places),
        config.get("weights") or None,
        config.get("voice"),
        sampling,
        end,
    )


def require(config: Mapping[str, Any] | SystemSpec, feature: str, *capabilities: str) -> None:
    """Raise ``CapabilityError`` unless the configured backbone promises all ``capabilities``.

    ``feature`` is named in the error. Imports the backbone's class, builds nothing.
    """
    values = config.config if isinstance(config, SystemSpec) else config
    # a wrapper promises what the backbone inside it does
    key = innermost(values["backbone"])["name"]
    require_caps(registry().get("backbone", key), feature, *capabilities, key=key)


def require_task(spec: SystemSpec, task: Task) -> None:
    """Raise ``ConfigError`` for a system of the other kind."""
    if spec.task is task:
        return
    what, do = {
        SPEECH: (
            "This is a system of text, which does not speak.",
            "Continue a text with 'wishbone text', or name a system that speaks.",
        ),
        TEXT: ("This is not a text system.", "Name one that says 'task: text'."),
    }[task]
    raise ConfigError(what, spec.config.place("task"), do)


def _check_keys(config: Config, task: Task) -> None:
    for key in config:
        if key not in task.keys:
            raise ConfigError(
                f"'{key}' is not a key of {task.title}.",
                config.place(key),
                f"{did_you_mean(key, task.keys)} Keys: {', '.join(task.keys)}.".strip(),
            )
    for key in ("weights", "voice", "about"):
        if config.get(key) is not None and not isinstance(config[key], str):
            raise ConfigError(f"'{key}' must be text.", config.place(key), "Quote it.")
