"""The configuration of adapters, and a check of its values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from wishbone.core.contract.errors import ConfigError, did_you_mean
from wishbone.core.contract.part import Dropout, NonNegative, Size
from wishbone.core.model.wrapper import Wrapper
from wishbone.plugins.peft.layers import DEFAULT, INITIAL
from wishbone.plugins.peft.quantized import KINDS

NONE = "base"
"""Name that a request gives to speak without any adapter."""


@dataclass
class PEFTConfig(Wrapper.Config):
    """The base, the method, and the layers that it adapts."""

    method: str = "lora"
    """lora, dora, miss or pissa."""
    rank: Size = 8
    """r, rows of A; the size of MiSS' blocks."""
    alpha: NonNegative = 0.0
    """B A counts alpha / rank times; 0 means once. MiSS has none."""
    targets: list[str] = field(default_factory=list)
    """Endings of layers' names, such as channel_mix.key; empty means all the base offers."""
    dropout: Dropout = 0.0
    """Share of what enters an adapter dropped in training."""
    base_weights: str = "float32"
    """Precision of the layers that the base offers: float32, bfloat16, int8 or nf4."""
    start: dict[str, str] = field(default_factory=dict)
    """{weights: FOLDER}: an adapter of peft that the trained one begins as."""
    adapters: dict[str, dict[str, str]] = field(default_factory=dict)
    """NAME: {weights: FOLDER}: adapters of peft that a request may choose instead."""


def check_config(config: Any) -> None:
    """Raise ``ConfigError`` for values that mean nothing."""

    def refuse(what: str, key: str, do: str) -> None:
        raise ConfigError(what, f"{key} of a peft backbone", do)

    if config.base_weights not in KINDS:
        hint = f"{did_you_mean(config.base_weights, KINDS)} Write one of {', '.join(KINDS)}."
        refuse(f"Weights cannot be kept as '{config.base_weights}'.", "base_weights", hint.strip())
    if not 0 <= config.dropout < 1:
        refuse(f"A dropout of {config.dropout} is none.", "dropout", "Write 0 or less than 1.")
    if config.alpha < 0 or (config.alpha and config.method == "miss"):
        refuse(f"An alpha of {config.alpha} means nothing here.", "alpha", "Leave it out.")
    places = {"start": config.start} if config.start else {}
    for key, at in (places | {f"adapters.{n}": at for n, at in config.adapters.items()}).items():
        if list(at) != ["weights"]:
            refuse(f"'{key}' does not say where the adapter is.", key, "Write {weights: FOLDER}.")
    for name in config.adapters:
        if not re.fullmatch(r"[A-Za-z][\w-]*", name) or name in (DEFAULT, INITIAL, NONE):
            refuse(
                f"An adapter cannot be called '{name}'.", "adapters",
                "Take letters, digits, - and _; default, initial and base mean something else.",
            )  # fmt: skip
