"""A configuration, parsed once: the class and the fields of every slot, before anything is built.

``compose`` gives a dictionary, ``parse`` makes a ``SystemSpec`` of it, and everything is built
from that. ``SystemSpec.config`` is the dictionary with every field of every slot, as it is saved.
There are two tasks, speech and continuing a text; a system of the second has three slots::

    task: text
    tokenizer: {name: KEY}
    backbone: {name: KEY, width: 192, layers: 6}
    head: {name: KEY}       # the table of text, in both directions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import Config, compose
from wishbone.core.config.schema import SlotSpec, innermost, parse_nested, parse_slot, structured
from wishbone.core.contract.backbone import require_caps
from wishbone.core.contract.errors import ConfigError, did_you_mean
from wishbone.core.model.sampling import Sampling


@dataclass(frozen=True)
class Task:
    """A task: the slots of its systems, and the other keys that a configuration may have."""

    name: str
    """The value of ``task:``; a configuration without one speaks."""
    title: str
    """Name in errors."""
    slots: tuple[str, ...]
    keys: tuple[str, ...]
    """Every legal key of the configuration, in the order in which errors list them."""


_SPEECH_SLOTS = ("tokenizer", "speech_tokenizer", "layout", "backbone", "head", "decoder")
_TEXT_SLOTS = ("tokenizer", "backbone", "head")

SPEECH = Task(
    "speech",
    "a system",
    _SPEECH_SLOTS,
    # how codes are drawn, the folder of the language model's weights, the voice to speak with,
    # and a sentence for people
    (*_SPEECH_SLOTS, "sampling", "weights", "voice", "about"),
)
TEXT = Task("text", "a text system", _TEXT_SLOTS, ("task", *_TEXT_SLOTS, "end", "weights", "about"))


@dataclass(frozen=True)
class SystemSpec:
    """All values of a configuration, with types; nothing is built yet."""

    task: Task
    slots: Mapping[str, SlotSpec]
    """By name, in the order of ``task.slots``."""
    config: Config
    """The same as a dictionary: saved with ``dump`` and read again it is equal."""
    weights: str | None = None
    """Folder of the language model's weights."""
    voice: str | None = None
    """Name or file of the voice to speak with."""
    sampling: Sampling = field(default_factory=Sampling)
    end: int = -1
    """``TextFields.end`` of a text system."""


@dataclass
class TextFields:
    """Keys of a text system that are no slots."""

    end: int = -1
    """Id that stands before and after a text; -1 means one more than the tokenizer has."""


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and resolve a system's configuration: it has every field of every slot, with types.

    ``overrides`` are ``"backbone.width=256"``. Saved with ``dump`` and read again it is the same.
    Raises ``ConfigError`` naming file, line and full key; ``UnknownName``; ``PluginError``.
    """
    return resolve(compose(name_or_path, overrides))


def resolve(config: Mapping[str, Any]) -> Config:
    """Check every slot of ``config`` against its schema and fill in the defaults."""
    return parse(config).config


def parse(config: Mapping[str, Any] | SystemSpec) -> SystemSpec:
    """Check a configuration and give every slot its class and its typed fields.

    A ``SystemSpec`` is returned as it is. Raises the errors of ``read``.
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
    values = {"task": task.name, "end": end, "sampling": asdict(sampling)}
    values |= {key: value for key, value in config.items() if key not in values}
    values |= {slot: parsed.values for slot, parsed in slots.items()}
    resolved = {key: values[key] for key in task.keys if values.get(key) is not None}
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
    # a wrapper promises the same as the backbone inside it
    slot = parse_nested(innermost(values["backbone"]), "backbone", "backbone")
    caps = slot.cls.caps_of(slot.config)
    require_caps(slot.cls, feature, *capabilities, key=slot.name, caps=caps)


def task_of(config: Mapping[str, Any]) -> Task:
    """Return the task that a configuration is for."""
    return TEXT if config.get("task") == TEXT.name else SPEECH


def _check_keys(config: Config, task: Task) -> None:
    """Raise ``ConfigError`` for an unknown key, or one that must be text and is not."""
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
