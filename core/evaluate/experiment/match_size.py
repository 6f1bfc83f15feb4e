"""``wishbone match A.yaml B.yaml``: the size of B's backbone at which both models cost the same.

A comparison of two backbones says little when one of them has more parameters. Width and depth of
B, and the fields that its class calls sizes, are searched by formula; a shape is proposed once a
copy of one layer has run, and the answer is built on the meta device and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from wishbone.core.config.schema import SlotSpec, as_values, parse_slot
from wishbone.core.contract.errors import ConfigError, GateFailed
from wishbone.core.registry.loader import registry
from wishbone.core.system.build import build_layout, build_model, without_memory
from wishbone.core.system.spec import parse, resolve

AROUND = 3
"""Widths to each side of the one nearest in size that are tried at every depth."""
TRIED = 4
"""Shapes of one width that may fail before the search leaves that width alone."""


@dataclass(frozen=True)
class Match:
    """A size of B, and what it costs beside A."""

    fields: dict[str, Any]
    """Fields of B's backbone that change, and width and depth."""
    parameters: int
    """Of the whole language model B: tables, backbone, head."""
    target: int
    """Of the whole language model A."""

    @property
    def difference(self) -> float:
        """Relative to A; positive when B is larger."""
        return self.parameters / self.target - 1


@dataclass(frozen=True)
class _Candidate:
    """A shape of B's backbone, by formula."""

    config: Any
    parameters: int
    off: float
    """Distance from A's size, as a share."""
    change: float
    """Distance from the shape that B has now: a factor of two counts the same in every field."""


def match(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.01) -> Match:
    """The nearest shape of B's backbone whose model has A's parameters within ``tolerance``.

    ``a`` and ``b`` are resolved configurations. Raises ``GateFailed`` with the closest size if no
    size fits or none runs, ``ConfigError`` if B's backbone has no width or depth to change.
    """
    target = _count(build_model(a, "meta"))
    slot = parse_slot(b, "backbone")
    depth = _depth_field(slot.config, b)
    total = _totals(slot, b)
    candidates = list(_candidates(slot, depth, target, total))
    within = sorted((one for one in candidates if one.off <= tolerance), key=lambda c: c.change)
    failure, failures = "", Counter[int]()
    for candidate in within:
        width = candidate.config.width
        if failures[width] >= TRIED or failures.total() >= TRIED**2:
            continue
        if why := _failure(slot.cls, candidate.config, depth):
            failures[width] += 1
            failure = failure or f"{_shape(slot, depth, candidate.config)}: {why}"
            continue
        built = _count(build_model(resolve(_with(b, candidate.config)), "meta"))
        # the formula may be a little off, or belong to another shape
        if abs(built / target - 1) <= tolerance:
            return Match(_changed(slot, depth, candidate.config), built, target)
    raise GateFailed(*_refusal(slot, depth, target, tolerance, candidates, failure))


def _refusal(
    slot: SlotSpec,
    depth: str,
    target: int,
    tolerance: float,
    candidates: Sequence[_Candidate],
    failure: str,
) -> tuple[str, str, str]:
    """The three parts of the error for a search without a result."""
    if failure:
        what = f"No size of '{slot.name}' near {target:,} parameters runs; {failure}."
        return what, "wishbone match", "Correct the backbone, or its fields in B's file."
    nearest = min(candidates, key=lambda candidate: candidate.off, default=None)
    what = f"No size of '{slot.name}' comes within {100 * tolerance:g} % of {target:,} parameters"
    if nearest is not None:
        off = 100 * (nearest.parameters / target - 1)
        shape = _shape(slot, depth, nearest.config)
        what += f"; the nearest has {shape} and {nearest.parameters:,} ({off:+.2f} %)"
    do = "Allow a larger --tolerance, or start from a size nearer to it."
    return f"{what}.", "wishbone match", do


def _totals(slot: SlotSpec, b: Mapping[str, Any]) -> Callable[[Any], int | None]:
    """A function: configuration -> parameters of the whole model, None where it is refused.

    The backbone is counted by its formula; tables and head are built once per width.
    """
    spec = parse(b)
    _, layout, codes = build_layout(spec)
    rows = sum(layout.tables[name] for name in tuple(layout.tables)[1:])
    heads: dict[int, int] = {}
    known: dict[str, int | None] = {}

    def around(width: int) -> int:
        if width not in heads:
            facts = {"width": width, "codes": codes, "extra": layout.extra}
            with without_memory("meta"):
                heads[width] = _count(spec.slots["head"].build(facts))
        return heads[width] + rows * width

    def total(config: Any) -> int | None:
        key = repr(config)
        if key not in known:
            try:
                known[key] = slot.cls.count_parameters(config) + around(config.width)
            # a formula of anybody may refuse a shape in any way; that shape is none
            except Exception:
                known[key] = None
        return known[key]

    return total


def _candidates(
    slot: SlotSpec, depth: str, target: int, total: Callable[[Any], int | None]
) -> Iterator[_Candidate]:
    """Shapes around A's size: at every depth the nearest widths and B's own, then tuned."""
    base = slot.config
    for shape in _shapes(base, depth, target, total, slot.cls.size_fields):
        for config, stretch in _tuned(shape, target, total, slot.cls.size_fields):
            count = total(config)
            if count is None:
                continue
            change = abs(math.log(config.width / base.width))
            change += abs(math.log(getattr(config, depth) / getattr(base, depth))) + stretch
            yield _Candidate(config, count, abs(count / target - 1), change)


def _shapes(
    base: Any,
    depth: str,
    target: int,
    total: Callable[[Any], int | None],
    sizes: Mapping[str, float],
) -> Iterator[Any]:
    """Depths from half to twice, and at each the widths in whole heads nearest to ``target``."""
    unit = getattr(base, "head_size", 0)
    heads = getattr(base, "heads", 0)
    if not unit:
        unit = base.width // heads if heads else 16
    layers = getattr(base, depth)
    widths = range(max(unit, base.width // 4 // unit * unit), 4 * base.width + 1, unit)
    for blocks in range(max(1, layers // 2), 2 * layers + 1):
        shapes = [_scaled(base, {"width": w, depth: blocks}, unit, sizes) for w in widths]
        place = _nearest(shapes, target, total)
        chosen = shapes[max(0, place - AROUND) : place + AROUND + 1]
        yield from chosen
        unmoved = _scaled(base, {"width": base.width, depth: blocks}, unit, sizes)
        if unmoved not in chosen:
            yield unmoved


def _nearest(shapes: Sequence[Any], target: int, total: Callable[[Any], int | None]) -> int:
    """The place of the first shape as large as ``target``, by halving; sizes grow with the width.

    A shape that is refused counts as the next larger one that is not.
    """
    low, high = 0, len(shapes) - 1
    while low < high:
        middle = (low + high) // 2
        counts = (total(shape) for shape in shapes[middle : high + 1])
        count = next((count for count in counts if count is not None), None)
        if count is None or count >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _scaled(base: Any, shape: dict[str, Any], unit: int, sizes: Mapping[str, float]) -> Any:
    """``base`` in another width and depth; heads and sizes grow with the width."""
    if getattr(base, "heads", 0):
        shape["heads"] = shape["width"] // unit
    for name, step in sizes.items():
        value = getattr(base, name, None)
        # 0 and None mean a size of the backbone's own; a float is a ratio, which stays
        if isinstance(value, int) and value and step:
            shape[name] = int(max(1, round(value * shape["width"] / base.width / step)) * step)
    return replace(base, **shape)


def _tuned(
    config: Any, target: int, total: Callable[[Any], int | None], sizes: Mapping[str, float]
) -> Iterator[tuple[Any, float]]:
    """The shape itself, and with each of its sizes moved to where it is nearest to ``target``.

    By at most a third, so that the shape stays one that somebody would choose; also how far, as
    the logarithm of the ratio. A field that says 0 means a size of the backbone's own, which the
    price of one step reveals; a field that costs nothing is no size.
    """
    yield config, 0.0
    names = {field.name for field in fields(config)}
    for name, step in sizes.items():
        if name not in names:
            continue
        one, two = (total(replace(config, **{name: count * step})) for count in (1, 2))
        count = total(config)
        if count is None or one is None or two is None or two <= one:
            continue
        value = getattr(config, name) or step + step * round((count - one) / (two - one))
        moved = value + step * round((target - count) / (two - one))
        if moved != value and abs(moved - value) <= value / 3:
            yield replace(config, **{name: moved}), abs(math.log(moved / value))


@torch.no_grad()
def _failure(cls: type[Any], config: Any, depth: str) -> str:
    """Run three positions through a copy of one layer -> the reason why it fails, or "".

    Where one layer is no shape of this backbone, all of them are run.
    """
    why = ""
    for shape in (replace(config, **{depth: 1}), config):
        try:
            y = cls(shape).eval()(torch.zeros(1, 3, config.width))[0]  # [1, 3, D]
        except Exception as error:
            why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        return "" if y.shape == (1, 3, config.width) else f"forward returns {tuple(y.shape)}"
    return why


def _changed(slot: SlotSpec, depth: str, config: Any) -> dict[str, Any]:
    before = as_values(slot.config)
    return {
        key: value
        for key, value in as_values(config).items()
        if key in ("width", depth) or value != before[key]
    }


def _shape(slot: SlotSpec, depth: str, config: Any) -> str:
    changed = _changed(slot, depth, config)
    return ", ".join(f"{key}: {value}" for key, value in changed.items())


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


def _with(config: Mapping[str, Any], config_fields: Any) -> dict[str, Any]:
    backbone = {"name": config["backbone"]["name"], **as_values(config_fields)}
    return {**config, "backbone": backbone}


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
