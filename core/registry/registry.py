"""Names of parts and their origin. Holds strings until a class is requested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from wishbone.core.contract.errors import (
    MissingExtra,
    PluginBroken,
    PluginConflict,
    PluginError,
    UnknownName,
    did_you_mean,
)

KINDS = (
    "tokenizer",
    "speech_tokenizer",
    "layout",
    "backbone",
    "mixer",
    "ffn",
    "head",
    "decoder",
    "teacher",
    "objective",
    "metric",
    "corpus",
    "converter",
    "release",
    "contender",
    "command",
)
HOME = "wishbone-tts"
"""The one distribution that may use bare keys."""

_PIECE = r"[a-z0-9][a-z0-9._-]*"
_KEY = re.compile(rf"{_PIECE}(/{_PIECE})?")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Entry:
    """One registered name: the target behind it, and the distribution that registered it."""

    kind: str
    key: str
    target: str
    """``"package.module:Class"``, imported on first use."""
    summary: str = ""
    distribution: str = ""
    version: str = ""

    @property
    def source(self) -> str:
        """Distribution and version, for people."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def title(self) -> str:
        """Kind and key, for people."""
        return f"{self.kind} '{self.key}'"


class Registry:
    """Kind and key to class. A plug-in fills an empty one, which is then absorbed as a whole."""

    def __init__(self, distribution: str = HOME, version: str = "") -> None:
        self.distribution = distribution
        self.version = version
        self.conflicts: dict[tuple[str, str], list[Entry]] = {}
        self.failed: dict[str, PluginError] = {}
        """Vendor, plug-in or ``kind:key`` name -> the error of the plug-in that failed."""
        self._entries: dict[tuple[str, str], Entry] = {}

    def add(self, kind: str, key: str, target: str, summary: str = "") -> None:
        """Register ``target`` (``"package.module:Class"``) as ``key``.

        Raises ``PluginError`` for an unknown kind, a malformed key or target, a bare key from
        outside Wishbone, or a key this registry gives to another target already.
        """
        entry = Entry(kind, key, target, summary, self.distribution, self.version)
        _check(entry)
        before = self._entries.get((kind, key))
        if before is not None and before.target != target:
            raise PluginError(
                f"{kind} '{key}' is registered twice, as {before.target} and as {target}.",
                self.distribution,
                "Give each part its own key.",
            )
        self._entries[kind, key] = entry

    def absorb(self, other: Registry) -> list[Entry]:
        """Take over all entries of ``other``; return those that another distribution claims too.

        A key claimed by two distributions belongs to neither.
        """
        disputed = []
        for at, entry in other._entries.items():
            before = self._entries.get(at)
            if at in self.conflicts:
                self.conflicts[at].append(entry)
                disputed.append(entry)
            elif before is not None and before.distribution != entry.distribution:
                self.conflicts[at] = [self._entries.pop(at), entry]
                disputed.append(entry)
            else:
                self._entries[at] = entry
        return disputed

    def names(self, kind: str) -> list[str]:
        """Every usable key of ``kind``, sorted."""
        return sorted(key for (of, key) in self._entries if of == kind)

    def entries(self) -> list[Entry]:
        """Every usable entry, by kind in the order of ``KINDS``, then by key."""
        return sorted(self._entries.values(), key=lambda e: (KINDS.index(e.kind), e.key))

    def of(self, kind: str) -> list[Entry]:
        """Every usable entry of ``kind`` in the order of registration, those of Wishbone first."""
        return [entry for entry in self._entries.values() if entry.kind == kind]

    def entry(self, kind: str, key: str) -> Entry:
        """Return the entry of ``key``.

        Raises ``UnknownName``, or the ``PluginError`` of the plug-in that should have brought it.
        """
        entry = self._entries.get((kind, key))
        if entry is not None:
            return entry
        if (kind, key) in self.conflicts:
            raise _conflict(kind, key, self.conflicts[kind, key])
        for name in (f"{kind}:{key}", key.partition("/")[0] if "/" in key else ""):
            if name in self.failed:
                raise self.failed[name]
        raise self._unknown(kind, key)

    def get(self, kind: str, key: str) -> type[Any]:
        """The class behind ``key``, imported now. Raises as ``entry`` and ``import_target`` do."""
        return import_target(self.entry(kind, key))

    def _unknown(self, kind: str, key: str) -> UnknownName:
        if kind not in KINDS:
            choices = f"{did_you_mean(kind, KINDS)} Kinds: {', '.join(KINDS)}."
            return UnknownName(f"There is no kind of part called '{kind}'.", "", choices.strip())
        names = self.names(kind)
        hint = did_you_mean(key, names)
        broken = sorted({error.where for error in self.failed.values()})
        if "/" in key and broken:
            hint += f" One of these plug-ins failed and may have brought it: {'; '.join(broken)}."
        return UnknownName(
            f"No {kind} is named '{key}'.",
            f"the registry, which knows: {', '.join(names) or 'none'}",
            (hint or "Run 'wishbone plugins list' to see every name and plug-in.").strip(),
        )


def import_target(entry: Entry) -> Any:
    """Import the target of an entry: a class, or the function of a command.

    Raises ``MissingExtra`` when a built-in part lacks an optional package, ``PluginBroken`` when
    the module of a plug-in fails, in whatever way.
    """
    module, _, name = entry.target.partition(":")
    try:
        return getattr(import_module(module), name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if entry.distribution == HOME and not str(error.name).startswith("wishbone"):
            raise MissingExtra(
                f"{entry.title} needs the package '{error.name}', which is not installed.",
                f"{entry.target}, of {entry.source}",
                f"pip install 'wishbone-tts[all]', or pip install {error.name}",
            ) from error
        raise _broken(entry, error) from error
    except BaseException as error:
        raise _broken(entry, error) from error


def _check(entry: Entry) -> None:
    """Raise ``PluginError`` for a malformed entry, or one with a reserved name."""
    where = f"wishbone_register of {entry.source}"
    if entry.kind not in KINDS:
        raise PluginError(
            f"'{entry.kind}' is not a kind of part.", where, f"Choose one of {', '.join(KINDS)}."
        )
    if not _KEY.fullmatch(entry.key):
        raise PluginError(
            f"'{entry.key}' is not a key.",
            where,
            "Use small letters, digits, dots, dashes, and one slash after the vendor.",
        )
    if not _TARGET.fullmatch(entry.target):
        raise PluginError(
            f"'{entry.target}' is not a target.", where, "Write it as 'package.module:Class'."
        )
    if "/" not in entry.key and entry.distribution != HOME:
        raise PluginError(
            f"The bare key '{entry.key}' is reserved for {HOME}.",
            where,
            f"Register it as 'vendor/{entry.key}'.",
        )


def _conflict(kind: str, key: str, claims: list[Entry]) -> PluginConflict:
    sources = " and ".join(entry.source for entry in claims)
    return PluginConflict(
        f"{kind} '{key}' is claimed by {sources}, so neither has it.",
        ", ".join(entry.target for entry in claims),
        f"Uninstall one of them: pip uninstall {claims[-1].distribution}",
    )


def _broken(entry: Entry, error: BaseException) -> PluginBroken:
    return PluginBroken(
        f"{entry.title} cannot be imported: {type(error).__name__}: {error}",
        f"{entry.target}, of {entry.source}",
        f"Repair or reinstall {entry.distribution}, or choose another {entry.kind}.",
    )
