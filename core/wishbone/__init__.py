"""Text to speech with exchangeable parts.

``wishbone.load("quickstart-rwkv7").say("Hello.")`` speaks; ``wishbone.names("backbone")`` lists
what can be exchanged. Importing this package imports no torch; its names do when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wishbone.core.interfaces import (
        Backbone,
        Decoder,
        Head,
        Layout,
        SpeechTokenizer,
        Teacher,
        Tokenizer,
    )
    from wishbone.core.plugin import hookimpl, names
    from wishbone.core.speaker import Speaker, build, load
    from wishbone.core.system import System

_HOME = {
    "load": "wishbone.core.speaker",
    "build": "wishbone.core.speaker",
    "Speaker": "wishbone.core.speaker",
    "System": "wishbone.core.system",
    "names": "wishbone.core.plugin",
    "hookimpl": "wishbone.core.plugin",
    "Backbone": "wishbone.core.interfaces",
    "Decoder": "wishbone.core.interfaces",
    "Head": "wishbone.core.interfaces",
    "Layout": "wishbone.core.interfaces",
    "SpeechTokenizer": "wishbone.core.interfaces",
    "Teacher": "wishbone.core.interfaces",
    "Tokenizer": "wishbone.core.interfaces",
}

__all__ = [
    "Backbone",
    "Decoder",
    "Head",
    "Layout",
    "Speaker",
    "SpeechTokenizer",
    "System",
    "Teacher",
    "Tokenizer",
    "build",
    "hookimpl",
    "load",
    "names",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'wishbone' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
