"""Text to speech with exchangeable parts.

``wishbone.load("quickstart-rwkv7").say("Hello.")`` speaks; ``wishbone.names("backbone")`` lists
what can be exchanged. Importing this package imports no torch; its names do when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wishbone.core.contract.backbone import Backbone
    from wishbone.core.contract.codec import Decoder, SpeechTokenizer
    from wishbone.core.contract.extensions.teacher import Teacher
    from wishbone.core.contract.head import Head
    from wishbone.core.contract.layout import Layout
    from wishbone.core.contract.text import Tokenizer
    from wishbone.core.registry.loader import hookimpl, names
    from wishbone.core.speak.speaker import Speaker, build, load
    from wishbone.core.system.system import System

_HOME = {
    "load": "wishbone.core.speak.speaker",
    "build": "wishbone.core.speak.speaker",
    "Speaker": "wishbone.core.speak.speaker",
    "System": "wishbone.core.system.system",
    "names": "wishbone.core.registry.loader",
    "hookimpl": "wishbone.core.registry.loader",
    "Backbone": "wishbone.core.contract.backbone",
    "Decoder": "wishbone.core.contract.codec",
    "Head": "wishbone.core.contract.head",
    "Layout": "wishbone.core.contract.layout",
    "SpeechTokenizer": "wishbone.core.contract.codec",
    "Teacher": "wishbone.core.contract.extensions.teacher",
    "Tokenizer": "wishbone.core.contract.text",
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
