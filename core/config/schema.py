"""Parsing of slots: sections of a configuration to typed fields, each once.

The schema of a slot is the dataclass ``Config`` nested in the class that the slot names. A field
of it may hold a slot of its own, as a wrapper's ``base`` does; ``nested`` marks such a field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from wishbone.core.config.compose import Config
from wishbone.core.config.limits import outside_limits
from wishbone.core.contract.errors import ConfigError, WishboneError, did_you_mean
from wishbone.core.contract.part import OneOf
from wishbone.core.registry.loader import registry

KIND = "wishbone.kind"
"""Key in the metadata of a field that holds a slot; its value is the kind of the part in it."""
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
        merged = OmegaConf.merge(section, {key: dict(values)})
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


def _parse(section: Any, key: str, kind: str, config: Config, verb: str = "use") -> SlotSpec:
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError(
            f"'{key}' does not say which {kind} to {verb}.",
            config.place(key),
            f"Write '{key.rpartition('.')[2]}: {{name: KEY}}'; 'wishbone plugins list' shows the"
            " keys.",
        )
    cls = registry().get(kind, section["name"])
    field_values = {name: value for name, value in section.items() if name not in HEADER}
    parsed = structured(cls.Config, field_values, key, config)
    values = {name: section[name] for name in HEADER if name in section} | asdict(parsed)
    base = None
    for name, inner_kind in _nested_fields(parsed):
        inside = getattr(parsed, name)
        # an empty 'weights' of a slot inside is none, as merging configurations leaves it
        inside = {k: v for k, v in inside.items() if v or k != "weights"}
        inner = _parse(inside, f"{key}.{name}", inner_kind, config, "wrap")
        with_slot = Section(inner.values)
        with_slot.slot = inner
        parsed, values[name] = replace(parsed, **{name: with_slot}), inner.values
        base = inner if name == "base" else base
    return SlotSpec(key, cls, parsed, values, config, base)


def _nested_fields(parsed: Any) -> list[tuple[str, str]]:
    """List the fields that hold slots: (name, kind)."""
    return [(part.name, part.metadata[KIND]) for part in fields(parsed) if KIND in part.metadata]
