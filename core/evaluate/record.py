"""Records and JSON: a dataclass to the keys of a file, and back.

``optional``, ``stored_as``, ``inline`` and ``others`` mark fields that are more than one key of the
same name, always there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
SCALARS: dict[type, tuple[type, ...]] = {
    str: (str,),
    int: (int, float),
    float: (int, float),
    bool: (bool,),
}
"""Type of a field -> types that JSON may have for it."""


def optional() -> Any:
    """A field that older files lack: None, and then not written."""
    return field(default=None, metadata={"optional": True})


def stored_as(key: str) -> Any:
    """A field whose key in the file is not its name."""
    return field(metadata={"key": key})


def inline() -> Any:
    """A record whose keys stand among those of the record that holds it."""
    return field(metadata={"inline": True})


def others() -> Any:
    """A dictionary of all the keys that no other field names; they stand among the record's."""
    return field(metadata={"others": True})


def record_json(record: Any) -> dict[str, Any]:
    """Return a record as JSON has it: dictionaries, lists, strings and numbers."""
    values: dict[str, Any] = {}
    for part in fields(record):
        value = getattr(record, part.name)
        if part.metadata.get("inline") or part.metadata.get("others"):
            values |= _plain(value)
        elif value is not None or not part.metadata.get("optional"):
            values[_key(part)] = _plain(value)
    return values


def read_record(kind: type[Record], values: Any) -> Record:
    """Build a record from its JSON; keys that it has no field for are passed over.

    Raises ``ValueError`` naming the key that is missing.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__} is no table of keys but {type(values).__name__}")
    types = _types(kind)
    arguments = {}
    for part in fields(kind):  # type: ignore[arg-type]
        if part.metadata.get("inline"):
            arguments[part.name] = read_record(types[part.name], values)
        elif part.metadata.get("others"):
            remaining = {key: value for key, value in values.items() if key not in types}
            arguments[part.name] = _typed(types[part.name], remaining)
        elif _key(part) in values:
            arguments[part.name] = _typed(types[part.name], values[_key(part)])
        elif part.default is MISSING and part.default_factory is MISSING:
            raise ValueError(f"{kind.__name__} has no '{_key(part)}'")
    return kind(**arguments)


def _key(part: Field[Any]) -> str:
    """Name of a field in the file."""
    return part.metadata.get("key", part.name)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return record_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


def _typed(kind: Any, value: Any) -> Any:
    """JSON as the field's type has it: records, tuples, and containers of them."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _typed(next(p for p in parts if p is not NoneType), value)
    if is_dataclass(kind) and isinstance(kind, type):
        return read_record(kind, value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is no mapping")
        return {key: _typed(parts[1], part) for key, part in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is no list")
        return origin(_typed(parts[0], part) for part in value)
    if kind in SCALARS and not isinstance(value, SCALARS[kind]):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
