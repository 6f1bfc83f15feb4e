"""``wishbone match A.yaml B.yaml``: the size of B's backbone at which both models cost the same.

A comparison of two backbones says little when one of them has more parameters. Width and depth of
B are searched by formula; the answer is then built on the meta device and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import ConfigError, GateFailed, WishboneError
from wishbone.core.registry.loader import registry
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import resolve


@dataclass(frozen=True)
class Match:
    """A size of B, and what it costs beside A."""

    fields: dict[str, Any]
    """Fields of B's backbone that change."""
    parameters: int
    """Of the whole language model B: tables, backbone, head."""
    target: int
    """Of the whole language model A."""

    @property
    def difference(self) -> float:
        """Relative to A; positive when B is larger."""
        return self.parameters / self.target - 1


def match(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.01) -> Match:
    """The nearest shape of B's backbone whose model has A's parameters within ``tolerance``.

    ``a`` and ``b`` are resolved configurations. Raises ``GateFailed`` with the closest size if no
    size fits, ``ConfigError`` if B's backbone has no width or depth to change.
    """
    target = _count(build_model(a, "meta"))
    slot = parse_slot(b, "backbone")
    cls, base = slot.cls, slot.config
    depth = _depth_field(base, b)
    around: dict[int, int] = {}

    def total(config: Any) -> int:
        """Backbone by formula; tables and head built once per width."""
        if config.width not in around:
            model = build_model(_with(b, config), "meta")
            around[config.width] = _count(model) - _count(model.backbone)
        return cls.count_parameters(config) + around[config.width]

    best: tuple[float, Any] | None = None
    nearest: tuple[float, Any] | None = None
    for config in _sizes(base, depth):
        try:
            choices = [(config, 0.0), _tune(config, target, total)]
            offs = [abs(total(choice) / target - 1) for choice, _ in choices]
        except (WishboneError, ValueError):
            # this width does not divide as the backbone wants it to
            continue
        for (choice, stretch), off in zip(choices, offs, strict=True):
            change = _change(base, choice, depth) + stretch
            if nearest is None or off < nearest[0]:
                nearest = off, choice
            if off <= tolerance and (best is None or change < best[0]):
                best = change, choice
    if best is None:
        raise GateFailed(
            f"No size of '{b['backbone']['name']}' comes within {100 * tolerance:g} % of"
            f" {target:,} parameters" + (f"; the nearest is {nearest[1]}." if nearest else "."),
            "wishbone match",
            "Allow a larger --tolerance, or start from a size nearer to it.",
        )
    changed = {
        key: value
        for key, value in asdict(best[1]).items()
        if key in ("width", depth) or value != asdict(base)[key]
    }
    built = _count(build_model(resolve(_with(b, best[1])), "meta"))
    return Match(changed, built, target)


def _sizes(base: Any, depth: str) -> Iterator[Any]:
    """Widths in whole heads from a quarter to four times, depths from half to twice."""
    unit = getattr(base, "head_size", 0)
    heads = getattr(base, "heads", 0)
    if not unit:
        unit = base.width // heads if heads else 16
    layers = getattr(base, depth)
    for blocks in range(max(1, layers // 2), 2 * layers + 1):
        for width in range(max(unit, base.width // 4 // unit * unit), 4 * base.width + 1, unit):
            fields = {"width": width, depth: blocks}
            if heads:
                fields["heads"] = width // unit
            if getattr(base, "ffn_width", 0):
                fields["ffn_width"] = max(16, round(base.ffn_width * width / base.width / 16) * 16)
            yield replace(base, **fields)


def _tune(config: Any, target: int, total: Any) -> tuple[Any, float]:
    """Move ``ffn_width``, where there is one, in steps of 16 to the size nearest to ``target``.

    By at most a third, so that the shape stays one that somebody would choose. Also returns by
    how much, as the logarithm of the ratio. A field that says 0 means a width of the backbone's
    own, which the price of one step reveals.
    """
    if not hasattr(config, "ffn_width"):
        return config, 0.0
    count, narrow = total(config), total(replace(config, ffn_width=16))
    step = total(replace(config, ffn_width=32)) - narrow
    if not step:
        # every feed-forward part has a width of its own
        return config, 0.0
    width = config.ffn_width or 16 + round(16 * (count - narrow) / step)
    moves = round((target - count) / step)
    if not moves or abs(16 * moves) > width / 3:
        return config, 0.0
    return replace(config, ffn_width=width + 16 * moves), abs(math.log(1 + 16 * moves / width))


def _change(base: Any, config: Any, depth: str) -> float:
    """Distance of a shape from the one asked for: a factor of two counts the same in both sizes."""
    change = abs(math.log(config.width / base.width))
    return change + abs(math.log(getattr(config, depth) / getattr(base, depth)))


def _depth_field(base: Any, config: Mapping[str, Any]) -> str:
    names = ("repeat",) if config["backbone"].get("blocks") else ("layers", "depth")
    depth = next((name for name in names if hasattr(base, name)), None)
    if depth is None or not hasattr(base, "width"):
        name = config["backbone"]["name"]
        raise ConfigError(
            f"Backbone '{name}' has no fields 'width' and 'layers' to search.",
            registry().entry("backbone", name).target,
            "Set its size by hand; 'wishbone plugins info' shows its fields.",
        )
    return depth


def _with(config: Mapping[str, Any], fields: Any) -> dict[str, Any]:
    backbone = {"name": config["backbone"]["name"], **asdict(fields)}
    return {**config, "backbone": backbone}


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
