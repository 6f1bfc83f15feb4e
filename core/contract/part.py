"""Base of all parts that are configured: a schema, and a small config to test with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar


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
        limits = [f"{words} {bound}" for words, bound in bounds if math.isfinite(bound)]
        return " and ".join(limits) or "a finite number"


class OneOf(tuple[str, ...]):
    """Words that a field may have: ``shard: Annotated[str, OneOf("none", "full")] = "none"``."""

    def __new__(cls, *words: str) -> OneOf:
        return super().__new__(cls, words)

    def __str__(self) -> str:
        return " or ".join(word or '""' for word in self)


Size = Annotated[int, Range(1, 2**20)]
"""A width, a rank, a number of rows: at least 1, and below what no machine could hold."""
OptionalSize = Annotated[int, Range(0, 2**20)]
"""A size where 0 stands for a rule or for nothing."""
Layers = Annotated[int, Range(1, 1024)]
"""A number of layers, blocks or heads."""
Count = Annotated[int, Range(0, 2**31 - 1)]
"""A number of things, 0 included."""
Share = Annotated[float, Range(0, 1)]
"""A share or a probability."""
Dropout = Annotated[float, Range(0, below=1)]
"""A probability of dropping: not all can be dropped."""
Positive = Annotated[float, Range(above=0)]
"""A finite number above 0."""
NonNegative = Annotated[float, Range(0)]
"""A finite number, 0 or above."""
Finite = Annotated[float, Range()]
"""Any number that is finite."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""The start of a generator of random numbers."""
