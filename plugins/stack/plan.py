"""The plan of a stack: which halves stand where, known before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.stack.mixer import Mixer, Place


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a block: its class and its configuration. Equal ones build equal modules."""

    cls: type[Mixer]
    config: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Half) and (self.cls, self.config) == (other.cls, other.config)

    def __hash__(self) -> int:
        return hash((self.cls, repr(self.config)))

    def leaves(self) -> Iterator[Half]:
        """Yield the halves inside of one that holds several, in order; else itself."""
        inside = getattr(self.config, "halves", ())
        for half in inside:
            yield from half.leaves()
        if not inside:
            yield self

    def build(self, place: Place) -> Mixer:
        """Build the module on the default device."""
        return self.cls(self.config, place)


@dataclass(frozen=True)
class Plan:
    """Every block of a stack, in the order of building."""

    width: int
    """D."""
    entries: tuple[tuple[Half | None, Half | None], ...]
    """Mixer and feed-forward part of every block that has weights of its own."""
    order: tuple[int, ...]
    """Depth -> number of the entry that stands there."""
    ffn_width: int = 0
    """``Place.ffn_width`` of feed-forward parts."""
    layer_norm: bool = False
    """True for LayerNorm before every half and at the end, else RMSNorm."""
    norm_eps: float = 1e-6
    """Of the norms."""
    norm_in: bool = False
    """True for a norm before the first block, too."""
    dropout: float = 0.0
    """Probability of dropping a number of a residual branch in training."""
    start: bool = True
    """``Place.start`` of every half."""

    def halves(self) -> Iterator[tuple[int, int, Half, Place]]:
        """Yield (entry, 0 for the mixer or 1, half, place) of all weights, in order.

        Raises ``ConfigError`` for a half that reads what no earlier one leaves.
        """
        published: tuple[str, ...] = ()
        inside = [leaf for pair in self.entries for half in pair if half for leaf in half.leaves()]
        demand = tuple(dict.fromkeys(name for leaf in inside for name in leaf.cls.reads))
        for entry, pair in enumerate(self.entries):
            layer = self.order.index(entry)
            for which, half in enumerate(pair):
                if half is None:
                    continue
                width = self.ffn_width if which else 0
                depth = layer, len(self.order)
                place = Place(self.width, *depth, published, width, self.start, demand)
                for leaf in half.leaves():
                    _check_reads(leaf, published, layer)
                    left = (*leaf.cls.publishes, *leaf.cls.offers)
                    published += tuple(name for name in left if name not in published)
                yield entry, which, half, place

    def leaves(self) -> list[Half]:
        """Return the halves of all weights in order, those side by side one by one."""
        return [leaf for _, _, half, _ in self.halves() for leaf in half.leaves()]

    def count_parameters(self) -> int:
        """Count halves and norms; no module is built twice for the same purpose."""
        halves = list(self.halves())
        norms = len(halves) + 1 + self.norm_in
        per_norm = self.width * (2 if self.layer_norm else 1)
        return norms * per_norm + sum(
            count_parameters(half, _typical(place)) for _, _, half, place in halves
        )


@lru_cache(maxsize=8192)
def count_parameters(half: Half, place: Place) -> int:
    """Count the parameters of a half, as it says."""
    return half.cls.count_parameters(half.config, place)


def _typical(place: Place) -> Place:
    """Return the first, a middle or the last of three blocks, for one count of all alike."""
    if place.layers < 3:
        return place
    layer = 0 if place.layer == 0 else 2 if place.layer == place.layers - 1 else 1
    return replace(place, layer=layer, layers=3)


def _check_reads(half: Half, published: tuple[str, ...], layer: int) -> None:
    missing = [name for name in half.cls.reads if name not in published]
    if missing:
        raise ConfigError(
            f"{half.cls.__name__} reads '{missing[0]}', and no half before it leaves that.",
            f"block {layer} of the stack",
            "Put a mixer before it that publishes this name.",
        )
