"""Loading of plug-ins, each alone, so that a broken one harms only its own users.

A plug-in is one entry point in the group ``wishbone.plugins`` that names a light module (no torch)
with ``WISHBONE_API = "1.1"`` and a ``@hookimpl def wishbone_register(registry)``. pluggy checks the
hooks; the loading is our own, because pluggy's stops at the first plug-in that raises. Code of a
plug-in runs in two places only: in ``load``, one transaction for each, and inside ``guarded``.

Environment: ``WISHBONE_PLUGINS=a,b`` loads only these outside plug-ins (empty: none),
``WISHBONE_DISABLE_PLUGINS=a`` leaves some out, ``WISHBONE_STRICT_PLUGINS=1`` raises at once.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pluggy

from wishbone.core.contract.errors import (
    PluginBroken,
    PluginError,
    PluginIncompatible,
    WishboneError,
    did_you_mean,
)
from wishbone.core.registry.entry_points import (
    Point,
    built_in_points,
    installed_points,
)
from wishbone.core.registry.registry import HOME, Entry, Registry, import_target

API = (1, 1)
"""Major and minor of the plug-in interface: hooks, kinds and their contracts."""

hookspec = pluggy.HookspecMarker("wishbone")
hookimpl = pluggy.HookimplMarker("wishbone")


class Hooks:
    """Hooks that a plug-in may implement. New arguments and hooks are only ever added."""

    @hookspec
    def wishbone_register(self, registry: Registry) -> None:
        """Call ``registry.add(kind, key, "package.module:Class", summary)`` for every part."""

    @hookspec
    def wishbone_doctor(self) -> list[tuple[str, bool, str]]:
        """Return checks for ``wishbone doctor``: (name, True where it is fine, one sentence)."""
        return []


@dataclass
class PluginStatus:
    """Outcome of loading one entry point."""

    name: str
    module: str
    distribution: str
    version: str
    status: str = "ok"
    """ok, broken, incompatible, conflict or disabled."""
    detail: str = ""
    """Reason for a status other than ok."""
    api: str = ""
    seconds: float = 0.0
    """Time of importing and registering."""
    entries: list[Entry] = field(default_factory=list)
    error: PluginError | None = None
    doctor: Callable[[], Any] | None = None
    """Its hook ``wishbone_doctor``, to be called inside ``guarded``."""

    @property
    def source(self) -> str:
        """Distribution and version, for people."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def title(self) -> str:
        """Name of the entry point, for people."""
        return f"plug-in '{self.name}'"


@dataclass
class Loaded:
    """The registry, and the outcome of every plug-in."""

    registry: Registry
    plugins: list[PluginStatus]


@cache
def loaded() -> Loaded:
    """Every plug-in of this environment, loaded once per process."""
    return load([*built_in_points(), *installed_points()])


def registry() -> Registry:
    """The registry with everything that is installed."""
    return loaded().registry


def names(kind: str) -> list[str]:
    """Every usable key of ``kind`` (backbone, head, decoder, layout, tokenizer, ...), sorted."""
    return registry().names(kind)


@contextmanager
def guarded(
    owner: Entry | PluginStatus, passing: tuple[type[BaseException], ...] = (), *, doing: str = ""
) -> Iterator[None]:
    """Run code of ``owner``; an error of it names its distribution, version and cause.

    A ``WishboneError`` is an answer and passes as it is, and so do the types in ``passing`` and
    what stops the whole process. Raises ``PluginBroken`` for any other error, with ``doing``
    ("being built") if it is given. Errors of Wishbone's own parts pass: no plug-in is at fault.
    """
    try:
        yield
    except (WishboneError, KeyboardInterrupt, GeneratorExit, BrokenPipeError, *passing):
        raise
    except BaseException as error:
        if owner.distribution == HOME:
            raise
        raise _failed(owner, error, doing) from error


def blame(error: BaseException) -> PluginBroken | None:
    """Make the error of the plug-in in whose code ``error`` arose; None for Wishbone's own code.

    For parts that run everywhere, such as a backbone: the innermost frame that belongs to a
    plug-in or to Wishbone decides.
    """
    owners = {
        place.partition(":")[0].partition(".")[0]: status
        for status in loaded().plugins
        if status.distribution != HOME
        for place in (status.module, *(entry.target for entry in status.entries))
    }
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == "wishbone":
            return None
        if package in owners:
            return _failed(owners[package], error)
    return None


def create(entry: Entry) -> Any:
    """Make an instance of a part that takes no arguments. Raises ``PluginError``."""
    cls = import_target(entry)
    with guarded(entry):
        return cls()


@dataclass(frozen=True)
class Search:
    """The result of asking all parts of a kind whether they know something."""

    entry: Entry | None
    """The first part that does; None without one."""
    part: Any
    """An instance of it."""
    failed: list[PluginError]
    """Errors of parts that could not be asked; they matter only where ``entry`` is None."""


def search(kind: str, claims: Callable[[Any], bool]) -> Search:
    """Find the first part of ``kind`` for which ``claims`` is true, Wishbone's own first.

    A part that raises is skipped, and its error is in ``Search.failed``.
    """
    failed: list[PluginError] = []
    for entry in registry().of(kind):
        try:
            part = create(entry)
            with guarded(entry):
                if claims(part):
                    return Search(entry, part, failed)
        except PluginError as error:
            failed.append(error)
    return Search(None, None, failed)


def load(points: Iterable[Point]) -> Loaded:
    """Load each point in its own transaction. Raises only if ``WISHBONE_STRICT_PLUGINS`` is set."""
    result = Loaded(Registry(), [])
    manager = pluggy.PluginManager("wishbone")
    manager.add_hookspecs(Hooks)
    for point in points:
        status = PluginStatus(point.name, point.module, point.distribution, point.version)
        result.plugins.append(status)
        plugin_registry = Registry(point.distribution, point.version)
        started = time.perf_counter()
        try:
            _refuse_disabled(point)
            _register(point, status, plugin_registry, manager)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _fail(result, status, plugin_registry, error)
        else:
            status.entries = plugin_registry.entries()
            result.registry.absorb(plugin_registry)
        status.seconds = time.perf_counter() - started
    _mark_conflicts(result)
    return result


def _register(
    point: Point, status: PluginStatus, plugin_registry: Registry, manager: pluggy.PluginManager
) -> None:
    """Import one plug-in, negotiate the version, check its hooks and let it fill ``fresh``."""
    plugin = point.load()
    status.api = str(getattr(plugin, "WISHBONE_API", ""))
    _negotiate(point, status.api)
    name = f"{point.distribution}:{point.module}"
    try:
        manager.register(plugin, name=name)
        _refuse_unknown_hooks(plugin, manager)
    except pluggy.PluginValidationError as error:
        raise _incompatible(point, str(error)) from error
    try:
        # called alone, not through the manager, so that it can only fail for itself
        implementation = getattr(plugin, "wishbone_register", None)
        if implementation is not None:
            implementation(registry=plugin_registry)
        status.doctor = getattr(plugin, "wishbone_doctor", None)
    except BaseException:
        manager.unregister(name=name)
        raise


def _negotiate(point: Point, api: str) -> None:
    """Same major, and a minor that is not newer than ours."""
    try:
        major, minor = (int(part) for part in api.split("."))
    except ValueError:
        reason = f"it says WISHBONE_API = {api!r}, not a version" if api else "it names none"
        raise _incompatible(point, f"{reason}; this Wishbone speaks {API[0]}.{API[1]}") from None
    if major != API[0] or minor > API[1]:
        raise _incompatible(
            point, f"it needs plug-in interface {api}; this Wishbone speaks {API[0]}.{API[1]}"
        )


def _refuse_unknown_hooks(plugin: Any, manager: pluggy.PluginManager) -> None:
    """As pluggy's ``check_pending``, but for one plug-in."""
    for caller in manager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin and not caller.has_spec():
                if not implementation.optionalhook:
                    manager.unregister(plugin)
                    hooks = [name for name in vars(Hooks) if name.startswith("wishbone_")]
                    near = did_you_mean(caller.name, hooks) or f"There are: {', '.join(hooks)}."
                    raise pluggy.PluginValidationError(
                        plugin, f"unknown hook '{caller.name}'. {near}"
                    )


def _refuse_disabled(point: Point) -> None:
    """Follow ``WISHBONE_PLUGINS`` and ``WISHBONE_DISABLE_PLUGINS``; built-ins always load."""
    if point.distribution == HOME:
        return
    names = {point.name, point.distribution}
    allowed = os.environ.get("WISHBONE_PLUGINS")
    if allowed is not None and not names & _listed(allowed):
        raise _Disabled("WISHBONE_PLUGINS does not list it")
    if names & _listed(os.environ.get("WISHBONE_DISABLE_PLUGINS", "")):
        raise _Disabled("WISHBONE_DISABLE_PLUGINS lists it")


class _Disabled(Exception):
    pass


def _fail(
    result: Loaded, status: PluginStatus, plugin_registry: Registry, error: BaseException
) -> None:
    """Record the error of a plug-in under every name by which its parts may be requested."""
    what = f"Plug-in '{status.name}' cannot be used: {type(error).__name__}: {error}"
    repair = f"Repair or update it (pip install --upgrade {status.distribution}), or uninstall it."
    if isinstance(error, _Disabled):
        status.status, status.detail = "disabled", str(error)
        what = f"Plug-in '{status.name}' is disabled: {error}."
        status.error = PluginError(what, status.source, "Change that environment variable.")
    elif isinstance(error, PluginIncompatible):
        status.status, status.detail, status.error = "incompatible", error.what, error
    elif isinstance(error, PluginError):
        status.status, status.detail = "broken", error.what
        what = f"Plug-in '{status.name}' cannot be used: {error.what}"
        status.error = PluginBroken(what, status.source, error.do)
    else:
        status.status, status.detail = "broken", f"{type(error).__name__}: {error}"
        status.error = PluginBroken(what, status.source, repair)
    status.error.__cause__ = error if error is not status.error else None
    for name in _names_of(status, plugin_registry):
        result.registry.failed.setdefault(name, status.error)
    if os.environ.get("WISHBONE_STRICT_PLUGINS") == "1" and status.status != "disabled":
        raise status.error


def _failed(owner: Entry | PluginStatus, error: BaseException, doing: str = "") -> PluginBroken:
    frames = traceback.extract_tb(error.__traceback__)
    place = f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    other = f", or choose another {owner.kind}" if isinstance(owner, Entry) else ""
    return PluginBroken(
        f"{owner.title} failed{doing and f' while {doing}'}: {type(error).__name__}: {error}",
        f"{owner.source}{place}",
        f"Repair or update it (pip install --upgrade {owner.distribution}){other}.",
    )


def _names_of(status: PluginStatus, plugin_registry: Registry) -> list[str]:
    """Vendor names and keys that point to this plug-in."""
    keys = [f"{entry.kind}:{entry.key}" for entry in plugin_registry.entries()]
    vendors = {
        entry.key.partition("/")[0] for entry in plugin_registry.entries() if "/" in entry.key
    }
    package = status.module.partition(":")[0].partition(".")[0]
    for name in (status.name, status.distribution, package):
        short = name.lower().removeprefix("wishbone").strip("-_")
        vendors |= {name.lower(), short}
    return [*keys, *sorted(vendors - {""})]


def _mark_conflicts(result: Loaded) -> None:
    """Mark plug-ins that claim the same key, which neither of them has."""
    for (kind, key), claims in result.registry.conflicts.items():
        for status in result.plugins:
            if any(entry in status.entries for entry in claims):
                others = sorted({e.source for e in claims} - {status.source})
                status.status = "conflict"
                status.detail = f"{kind} '{key}' is also claimed by {', '.join(others)}"


def _incompatible(point: Point, why: str) -> PluginIncompatible:
    return PluginIncompatible(
        f"Plug-in '{point.name}' does not fit this Wishbone: {why}.",
        f"{point.distribution} {point.version}".strip(),
        f"Install versions that fit: pip install --upgrade {point.distribution} {HOME}",
    )


def _listed(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}
