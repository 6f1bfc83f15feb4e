"""YAML files to one dictionary, with ``base:`` and ``key=value`` overrides.

A configuration is data. It cannot run code, import anything or read the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

from wishbone.core.contract.errors import ConfigError, UnknownName, did_you_mean
from wishbone.core.registry.shipped import shipped

_RESOLVER = re.compile(r"\$\{[^{}]*:")
LONGEST = 250
"""Bytes that a name may have, those of a path one by one."""
BELOW = "below"
"""Value of ``base`` for a part that wraps the part of the file below."""
_OVERRIDE = re.compile(r"[A-Za-z_][\w]*(\.[\w-]+)*")


class Config(dict[str, Any]):
    """A configuration, and the place of each of its keys."""

    def __init__(
        self,
        values: Mapping[str, Any],
        path: Path | None = None,
        places: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(values)
        self.path = path
        """The file that it was read from, if there is one."""
        self.places = dict(places or {})
        """Dotted key -> ``file:line`` or ``the command line``."""

    def place(self, key: str) -> str:
        """Return file and line of ``key``, or of the nearest key around it."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return str(self.path) if self.path else "the configuration"


def bundled() -> Path:
    """Return the folder of the configurations and weights that ship with Wishbone."""
    return Path(str(resources.files("wishbone.configs")))


def compose(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    kind: str = "system",
    over: Mapping[str, Any] | None = None,
) -> Config:
    """Read a YAML file, what it is based on, and the overrides; check nothing else.

    ``kind`` is the folder of ``wishbone.configs`` where a bare name is looked up: system, train,
    ab. A value that is a mapping with another ``name`` replaces the one it overrides as a whole,
    because the fields of one part mean nothing to another. Weights folders become paths that
    can be found from anywhere. ``over`` is laid on top of the file, before ``${other.key}`` is
    replaced. Raises ``UnknownName`` and ``ConfigError``.
    """
    path = find(name_or_path, kind)
    values, places = _read(path, kind, ())
    values = merge(values, over or {})
    if overrides:
        extra = _overrides(overrides)
        _resolve_weights(extra, Path.cwd())
        places = _forget(places, values, extra) | dict.fromkeys(_keys(extra), "the command line")
        values = merge(values, extra)
    return Config(_interpolate(values, path), path, places)


def find(
    name_or_path: str | Path,
    kind: str = "system",
    folder: Path | None = None,
    asking: Path | None = None,
) -> Path:
    """Return the YAML file for a path, a folder with a ``config.yaml``, or a bundled name.

    ``VENDOR/NAME`` is one that a plug-in brings (``wishbone.core.registry.shipped``).
    ``folder`` is searched first (the current one if None); ``asking`` is the file that names this
    one as its base, so that a file may share the name of the bundled one it is based on. Raises
    ``UnknownName`` with the names that exist.
    """
    text = str(name_or_path)
    if not could_be_file(text):
        raise UnknownName(
            f"'{text[:60]}...' cannot be the name of a {kind} configuration.",
            "the name asked for",
            "Give a path to a YAML file, or one of the bundled names.",
        )
    file = text if text.endswith((".yaml", ".yml")) else f"{text}.yaml"
    places = [folder] if folder else [Path()]
    for place in [*places, bundled() / kind, bundled()]:
        path = place / file
        if path.is_file() and (asking is None or path.resolve() != asking):
            return path
    for place in places:
        if (place / text / "config.yaml").is_file():
            return place / text / "config.yaml"
    brought = shipped(kind)
    if text in brought:
        return brought[text]
    choices = sorted([*(p.stem for p in (bundled() / kind).glob("*.yaml")), *brought])
    raise UnknownName(
        f"There is no {kind} configuration '{text}'.",
        f"{folder or Path.cwd()} and the bundled names: {', '.join(choices) or 'none'}",
        did_you_mean(text, choices) or "Give a path to a YAML file, or one of the bundled names.",
    )


def could_be_file(name: str) -> bool:
    """Return True where a file may have this name; asking the system about others is an error."""
    parts = Path(name).parts
    return "\0" not in name and all(len(os.fsencode(part)) <= LONGEST for part in parts)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into ``base`` key by key; a mapping of another ``name`` replaces the old.

    ``base: below`` in a part of ``over`` makes it wrap the part of ``base``.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and value.get("base") == BELOW:
            wraps = not _same_part(below, value)
            remaining = {name: inner for name, inner in value.items() if name != "base"}
            value = {**remaining, "base": below} if wraps else remaining
        if isinstance(value, Mapping) and isinstance(below, Mapping) and _same_part(below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def dump(values: Mapping[str, Any]) -> str:
    """Return the YAML text of a resolved configuration."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))


def _same_part(below: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    return "name" not in over or "name" not in below or over["name"] == below["name"]


def _read(
    path: Path, kind: str, dependents: tuple[Path, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read one file with its bases below it, and the place of every key."""
    path = path.resolve()
    if path in dependents:
        chain = " -> ".join(p.name for p in (*dependents, path))
        raise ConfigError(f"These files are based on each other: {chain}.", str(path), "Cut one.")
    file_values, lines = parse(path)
    bases = file_values.pop("base", None) or []
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"'base: {bases}' is no configuration.",
            f"{path}:{lines.get('base', 1)}",
            "Write its name, its path, or a list of them.",
        )
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name in names:
        below, origin = _read(find(name, kind, path.parent, path), kind, (*dependents, path))
        places = _forget(places, values, below) | origin
        values = merge(values, below)
    _resolve_weights(file_values, path.parent)
    origin = {key: f"{path}:{line}" for key, line in lines.items()}
    return merge(values, file_values), _forget(places, values, file_values) | origin


def parse(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read one YAML file -> its mapping, the line of each dotted key. Raises ``ConfigError``."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        # OmegaConf takes a bare word for a key without a value, and fails on a bare number
        mapping = tree is None or isinstance(tree, yaml.MappingNode)
        values = OmegaConf.to_container(OmegaConf.create(text or "{}")) if mapping else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file cannot be read: {error}.", str(path), "Check it.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        why = getattr(error, "problem", None) or error
        raise ConfigError(f"This is not YAML: {why}.", where, "Correct that line.") from error
    except OmegaConfBaseException as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"{why}.", str(path), "Correct the keys of that file.") from error
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        # values that a tag promises and that are none, such as !!int 'abc'; nesting without end
        raise ConfigError(
            f"A value cannot be read: {error}.", str(path), "Write plain numbers and texts."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            "A YAML file of Wishbone is a mapping of keys to values.",
            str(path),
            "Write 'key: value'.",
        )
    lines: dict[str, int] = {}
    _note_lines(tree, "", lines)
    _refuse_resolvers(values, "", lambda key: f"{path}:{lines.get(key, 1)}")
    _refuse_words(tree, path)
    return {str(key): value for key, value in values.items()}, lines


def _refuse_words(tree: Any, path: Path) -> None:
    """Raise ``ConfigError`` for ``on``, ``yes`` and the like as keys: YAML 1.1 reads a truth."""
    keys = [key for key, _ in tree.value] if tree is not None else []
    for key in keys:
        if not key.tag.endswith((":str", ":merge")):
            raise ConfigError(
                f"'{key.value}' is no key: YAML reads it as {key.tag.rpartition(':')[2]}.",
                f"{path}:{key.start_mark.line + 1}",
                "Correct the key, or put it into quotation marks.",
            )


def _note_lines(node: Any, prefix: str, lines: dict[str, int]) -> None:
    """Note the line of every key below ``node``; of an item of a list by its number."""
    if type(node).__name__ == "MappingNode":
        children = [(key.value, key, value) for key, value in node.value]
    elif type(node).__name__ == "SequenceNode":
        children = [(str(i), value, value) for i, value in enumerate(node.value)]
    else:
        return
    for key, at, value in children:
        lines[f"{prefix}{key}"] = at.start_mark.line + 1
        _note_lines(value, f"{prefix}{key}.", lines)


def _refuse_resolvers(value: Any, key: str, where: Any) -> None:
    """Raise ``ConfigError`` for ``${oc.env:HOME}`` and its like, which reach outside the file."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_resolvers(inner, f"{key}.{name}".lstrip("."), where)
    elif isinstance(value, list):
        for inner in value:
            _refuse_resolvers(inner, key, where)
    elif isinstance(value, str) and _RESOLVER.search(value):
        raise ConfigError(
            f"'{key}' uses the resolver {value}; a configuration may not reach outside itself.",
            where(key),
            "Write the value, or refer to another key as ${other.key}.",
        )


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """Parse ``["backbone.width=256"]`` to a nested dictionary. Raises ``ConfigError``."""
    from omegaconf import OmegaConf

    for word in words:
        key, sign, _ = word.partition("=")
        if not sign or not _OVERRIDE.fullmatch(key):
            raise ConfigError(
                f"'{word}' is not an override.", "the command line", "Write it as some.key=value."
            )
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))
    except Exception as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"{why}.", "the command line", "Check the values after '='.") from error
    _refuse_resolvers(values, "", lambda key: "the command line")
    return cast(dict[str, Any], values)


def _interpolate(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace ``${other.key}`` by the value of that key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], str(path), "Check that key.") from error
    return cast(dict[str, Any], resolved)


def _resolve_weights(values: Any, folder: Path) -> None:
    """Turn every ``weights:`` into a path below the bundled folder, or an absolute one.

    A path beside the file comes first, then a bundled one. A path that does not exist stays as it
    is written: a configuration may be read before its weights exist.
    """
    if isinstance(values, list):
        for inner in values:
            _resolve_weights(inner, folder)
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if key == "weights" and isinstance(value, str):
            values[key] = _weights_path(value, folder)
        else:
            _resolve_weights(value, folder)


def _weights_path(value: str, folder: Path) -> str:
    if not could_be_file(value):
        return value
    beside = (folder / value).resolve()
    if beside.exists():
        home = bundled().resolve()
        return str(beside.relative_to(home)) if beside.is_relative_to(home) else str(beside)
    return value


def weights_folder(value: str) -> Path:
    """Return the folder of a resolved ``weights:``; it may not exist."""
    if not could_be_file(value):
        raise ConfigError(
            f"'{value[:60]}' cannot be the name of a folder.", "weights", "Name a folder."
        )
    path = Path(value)
    return path if path.is_absolute() or not (bundled() / path).exists() else bundled() / path


def _keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            names += _keys(value, f"{prefix}{key}.")
    return names


def _forget(
    places: Mapping[str, str], values: Mapping[str, Any], over: Mapping[str, Any]
) -> dict[str, str]:
    """Drop from ``places`` the keys that ``over`` replaces as a whole."""
    replaced = [
        f"{key}."
        for key, value in over.items()
        if not isinstance(value, Mapping)
        or not isinstance(values.get(key), Mapping)
        or not _same_part(values[key], value)
    ]
    return {key: place for key, place in places.items() if not key.startswith(tuple(replaced))}
