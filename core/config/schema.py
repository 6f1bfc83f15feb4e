"""Parsing of slots: sections of a configuration to typed fields, each once.

The schema of a slot is the dataclass ``Config`` nested in the class that the slot names. A field
of it may hold a slot of its own, as a wrapper's ``base`` does; ``nested`` marks such a field. Its
limits are part of its type, as in ``Annotated[int, Range(1)]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import ConfigError, UnknownName, WishboneError, did_you_mean
from wishbone.core.contract.part import OneOf, Range
from wishbone.core.registry.loader import registry

KIND = "wishbone.kind"
"""Key in the metadata of a field that holds a slot; its value is the kind of the part in it."""
ANY_FORM = "wishbone.any_form"
"""Key in the metadata of a field that ``slots`` makes."""
ITEMS = "wishbone.items"
"""Key in the metadata of a field that holds a list of mappings; its value is their schema."""
NONE = "none"
"""Word that leaves a slot of ``slots`` empty."""
HEADER = ("name", "weights")
"""Keys of a section that are not fields of the class it names."""


@dataclass(frozen=True)
class SlotSpec:
    """One slot, parsed: the class it names, and its fields with their types."""

    key: str
    """Dotted key of the section, such as ``backbone.base``."""
    cls: type[Any]
    config: Any
    """An instance of ``cls.Config``."""
    values: dict[str, Any]
    """The section with every field, as it is saved."""
    source: Config
    """The configuration it stands in."""
    base: SlotSpec | None = None
    """The slot inside, where this one wraps another."""

    @property
    def name(self) -> str:
        """Registry key of the class."""
        return str(self.values["name"])

    @property
    def place(self) -> str:
        """File and line of the section, for errors."""
        return self.source.place(self.key)

    @property
    def weights(self) -> str | None:
        """Folder of the weights of this slot alone, if it names one."""
        return self.values.get("weights") or None

    def build(self, facts: Mapping[str, object] | None = None) -> Any:
        """Construct the part on the default device; ``facts`` of other slots are keyword arguments.

        Raises ``ConfigError`` where the class refuses its values with a ``ValueError``.
        """
        try:
            return self.cls(self.config, **(facts or {}))
        except ValueError as error:
            raise ConfigError(
                f"{self.key}: {error}", self.place, "Correct the values of that slot."
            ) from error


class Section(dict[str, Any]):
    """The values of a slot inside another one, with the ``SlotSpec`` they were parsed to."""

    slot: SlotSpec | None = None


def nested(kind: str) -> Any:
    """Make a field of a ``Config`` that holds a slot: ``{name: KEY, ...}`` of that kind."""
    return field(default_factory=dict, metadata={KIND: kind})


def slots(kind: str, default: str | None) -> Any:
    """Make a field of a ``Config`` that holds one slot or several, in the shortest form.

    ``KEY``, ``{name: KEY, ...}``, a list of both, or ``none``. ``default`` is a key, or None where
    an empty field has a meaning of its own.
    """
    return field(default=default, metadata={KIND: kind, ANY_FORM: True})


def filled(kind: str, cls: type[Any], config: Any) -> Section:
    """Fill a slot with a class that need not be registered, built from ``config``."""
    values = {"name": cls.__name__, **asdict(config)}
    return _section(SlotSpec(kind, cls, config, values, Config({})))


def items(schema: type[Any]) -> Any:
    """Make a field of a ``Config`` that holds a list of mappings, each checked by ``schema``."""
    return field(default_factory=list, metadata={ITEMS: schema})


def parse_slot(config: Mapping[str, Any], slot: str, kind: str = "") -> SlotSpec:
    """Check ``config[slot]`` against the class it names, and those of slots inside it.

    ``kind`` is the registry's kind where it is not the slot's name. Imports the classes, builds
    nothing. Raises ``ConfigError`` with file, line and full key; ``UnknownName``; ``PluginError``.
    """
    config = config if isinstance(config, Config) else Config(config)
    return _parse(config.get(slot), slot, kind or slot, config)


def parse_nested(values: Mapping[str, Any], kind: str, key: str = "base") -> SlotSpec:
    """Parse the slot in a field that ``nested`` marks, if that was not done before."""
    if isinstance(values, Section) and values.slot is not None:
        return values.slot
    return _parse(values, key, kind, Config({}), "wrap")


def parse_slots(values: Any, kind: str) -> list[SlotSpec]:
    """Parse what a field that ``slots`` marks holds, if that was not done before; [] for none."""
    if values is None or values == NONE:
        return []
    if isinstance(values, list):
        return [slot for value in values for slot in parse_slots(value, kind)]
    section = _any_form(values, kind, kind, Config({}))
    return [] if section.slot is None else [section.slot]


def innermost(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the section of the innermost backbone: ``values`` itself, or its base's base ..."""
    while isinstance(values.get("base"), Mapping) and values["base"]:
        values = values["base"]
    return values


def structured(schema: type[Any], values: Mapping[str, Any], key: str, config: Config) -> Any:
    """Make an instance of the dataclass ``schema`` from ``values``, which stand under ``key``.

    Raises ``ConfigError`` with the full key, its line, and the nearest legal name or the range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        section = OmegaConf.create({key: OmegaConf.structured(schema)})
        merged = OmegaConf.merge(section, {key: _plain(dict(values))})
        parsed = cast(dict[str, Any], OmegaConf.to_object(merged))[key]
    except OmegaConfBaseException as error:
        full = str(error.full_key or key)
        what = (error.msg or str(error)).splitlines()[0]
        what = re.sub(r"Key '(.+)' not in '.+'\.", rf"'\1' is not a key of '{key}'.", what)
        legal = ", ".join(schema.__dataclass_fields__)
        raise ConfigError(
            f"{full}: {what.rstrip('.')}" + ("" if what.endswith("?") else "."),
            config.place(full),
            f"Correct that key. Keys of '{key}': {legal}.",
        ) from error
    except WishboneError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{key}: {error}", config.place(key), "Correct the values of that slot."
        ) from error
    check_limits(parsed, key, config)
    return parsed


def check_limits(parsed: Any, key: str, config: Config | None = None) -> None:
    """Raise ``ConfigError`` where a field of ``parsed`` is outside the limit its schema declares.

    ``parsed`` is an instance of a schema, which stands under ``key`` in ``config``, if in any.
    """
    for name, value, limit in outside_limits(parsed):
        full = f"{key}.{name}"
        what = f"{full}: {value} is outside its range."
        if isinstance(limit, OneOf):
            what = f"{full}: there is no '{value}'. {did_you_mean(str(value), limit)}".rstrip()
        place = full if config is None else config.place(full)
        raise ConfigError(what, place, f"Allowed: {limit}.")


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


def _parse(section: Any, key: str, kind: str, config: Config, verb: str = "use") -> SlotSpec:
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError(
            f"'{key}' does not say which {kind} to {verb}.",
            config.place(key),
            f"Write '{key.rpartition('.')[2]}: {{name: KEY}}'; 'wishbone plugins list' shows the"
            " keys.",
        )
    try:
        cls = registry().get(kind, section["name"])
    except UnknownName as error:
        where = f"{config.place(f'{key}.name')}; {error.where}"
        raise UnknownName(error.what, where, error.do) from None
    # a class whose shape is written in its weights has them for a field, too
    header = set(HEADER) - ({"weights"} & set(cls.Config.__dataclass_fields__))
    field_values = {name: value for name, value in section.items() if name not in header}
    parsed = structured(cls.Config, field_values, key, config)
    values = {name: section[name] for name in HEADER if name in section} | asdict(parsed)
    inside = _parse_inside(parsed, key, config)
    parsed = replace(parsed, **inside)
    values |= {name: _plain(value) for name, value in inside.items()}
    base = inside["base"].slot if isinstance(inside.get("base"), Section) else None
    return SlotSpec(key, cls, parsed, values, config, base)


def _parse_inside(parsed: Any, key: str, config: Config) -> dict[str, Any]:
    """Parse the slots inside of a slot: the fields that hold some, with a ``Section`` for each."""
    inside: dict[str, Any] = {}
    for part in fields(parsed):
        values, at = getattr(parsed, part.name), f"{key}.{part.name}"
        if ITEMS in part.metadata:
            schema = part.metadata[ITEMS]
            inside[part.name] = [
                _parse_item(schema, item, f"{at}.{i}", config) for i, item in enumerate(values)
            ]
        elif ANY_FORM in part.metadata:
            inside[part.name] = _any_form(values, at, part.metadata[KIND], config)
        elif KIND in part.metadata:
            # an empty 'weights' of a slot inside is none, as merging configurations leaves it
            values = {k: v for k, v in values.items() if v or k != "weights"}
            inside[part.name] = _section(_parse(values, at, part.metadata[KIND], config, "wrap"))
    return inside


def _parse_item(schema: type[Any], item: Any, key: str, config: Config) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        legal = ", ".join(schema.__dataclass_fields__)
        raise ConfigError(
            f"{key}: '{item}' is not a mapping.", config.place(key), f"Write some of {legal}."
        )
    parsed = structured(schema, item, key, config)
    return asdict(parsed) | _parse_inside(parsed, key, config)


def _any_form(values: Any, key: str, kind: str, config: Config) -> Any:
    """Parse ``KEY``, ``{name: KEY}`` or a list of both; "none" and None stay as they are."""
    if values is None or values == NONE or (isinstance(values, Section) and values.slot):
        return values
    if isinstance(values, list):
        return [_any_form(value, f"{key}.{i}", kind, config) for i, value in enumerate(values)]
    if isinstance(values, str):
        values = {"name": values}
    if isinstance(values, Mapping) and "weights" in values:
        raise ConfigError(
            f"A {kind} has no weights of its own.",
            config.place(f"{key}.weights"),
            "Name the folder of the whole model's weights instead.",
        )
    return _section(_parse(values, key, kind, config))


def _section(slot: SlotSpec) -> Section:
    section = Section(slot.values)
    section.slot = slot
    return section


def as_values(parsed: Any) -> dict[str, Any]:
    """Turn an instance of a schema to the plain values that are saved, slots inside included."""
    return {part.name: _plain(getattr(parsed, part.name)) for part in fields(parsed)}


def _plain(value: Any) -> Any:
    """Turn sections and lists of them to the plain values that are saved."""
    if isinstance(value, Section) and value.slot is not None:
        return value.slot.values
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
