"""The two tasks of a system: speech, and continuing a text.

A text system is a configuration with ``task: text`` and three slots::

    task: text
    tokenizer: {name: KEY}
    backbone: {name: KEY, width: 192, layers: 6}
    head: {name: KEY}       # the table of text, in both directions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import ConfigError, did_you_mean


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


def task_of(config: Mapping[str, Any]) -> Task:
    """Return the task that a configuration is for."""
    return TEXT if config.get("task") == TEXT.name else SPEECH


def check_keys(config: Config, task: Task) -> None:
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
