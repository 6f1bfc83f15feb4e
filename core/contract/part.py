"""Base of all parts that are configured: a schema, and a small config to test with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar


class Part:
    """Base of all parts that are configured: those of slots, and others that a file names."""

    Config: ClassVar[type]
    """Dataclass: the schema of the part's section in the YAML file."""

    @classmethod
    def small_config(cls) -> Any:
        """Return a config for the contract suite; None lets the suite make ``Config()`` small."""
        return None


@dataclass(frozen=True)
class Range:
    """Numbers that a field of a schema may have: ``steps: Annotated[int, Range(1)] = 100``.

    A number that is not finite is in no range.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __str__(self) -> str:
        names = ("at_least", "above", "at_most", "below")
        bounds = [(n.replace("_", " "), getattr(self, n)) for n in names]
        limits = [f"{words} {bound:g}" for words, bound in bounds if math.isfinite(bound)]
        return " and ".join(limits) or "a finite number"


class OneOf(tuple[str, ...]):
    """Words that a field may have: ``shard: Annotated[str, OneOf("none", "full")] = "none"``."""

    def __new__(cls, *words: str) -> OneOf:
        return super().__new__(cls, words)

    def __str__(self) -> str:
        return " or ".join(word or '""' for word in self)
