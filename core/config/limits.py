"""Limits that the fields of a schema declare: ``Annotated[int, Range(1)]``, found and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from wishbone.core.contract.part import OneOf, Range


def limits_of(schema: type[Any]) -> dict[str, Range | OneOf]:
    """Return field -> its limit, of the fields of a dataclass that declare one."""
    limits: dict[str, Range | OneOf] = {}
    for name, hint in get_type_hints(schema, include_extras=True).items():
        optional = [option for option in get_args(hint) if get_origin(option) is Annotated]
        for annotated in [hint, *optional]:
            for extra in annotated.__metadata__ if get_origin(annotated) is Annotated else ():
                if isinstance(extra, Range | OneOf):
                    limits[name] = extra
    return limits


def outside_limits(config: Any) -> Iterator[tuple[str, Any, Range | OneOf]]:
    """Yield (field, value, limit) of values that are not allowed, also in dataclasses inside.

    A list or a mapping is checked value by value; None is an absent value, and allowed.
    """
    limits = limits_of(type(config))
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            inside = outside_limits(value)
            yield from ((f"{item.name}.{name}", number, limit) for name, number, limit in inside)
        elif item.name in limits:
            limit, values = limits[item.name], value
            if isinstance(value, dict):
                values = list(value.values())
            for one in values if isinstance(values, list) else [values]:
                if one is None:
                    continue
                if isinstance(limit, OneOf):
                    allowed = one in limit
                else:
                    closed = limit.at_least <= one <= limit.at_most
                    allowed = math.isfinite(one) and closed and limit.above < one < limit.below
                if not allowed:
                    yield item.name, one, limit
