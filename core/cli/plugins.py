"""``wishbone plugins``: what is here and from where, does it keep its contract, write your own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.cli.arguments import argument, option, parse_subcommand
from wishbone.core.contract.errors import GateFailed, UnknownName, did_you_mean
from wishbone.core.registry.loader import Loaded, PluginStatus, loaded
from wishbone.core.registry.registry import KINDS, Entry, Registry
from wishbone.core.registry.requirements import unmet_requirements

EXAMPLES = """examples:
  wishbone plugins list --kind backbone
  wishbone plugins info rwkv7
  wishbone plugins new acme/gru --kind backbone && pip install -e wishbone-acme-gru
  wishbone plugins check acme/gru"""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List every part, and every plug-in with how it loaded."""

    kind: str | None = option(
        None, metavar="KIND", choices=KINDS, help=f"only parts of this kind: {', '.join(KINDS)}"
    )
    json: bool = option(False, help="print the same as JSON, for programs")


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Show where a part comes from, and every field of its configuration."""

    key: str = argument(help="the part's key, such as rwkv7")
    kind: str | None = option(
        None,
        metavar="KIND",
        choices=KINDS,
        default_text="every kind with such a key",
        help="the part's kind, such as backbone",
    )


@dataclass(frozen=True, kw_only=True)
class CheckOptions(InfoOptions):
    """Run the contract's tests on a part; the exit code is 4 if one fails."""


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Write a package with a working part of your own, to change step by step."""

    name: str = argument(help="the part's key, as vendor/name; a bare name becomes my/name")
    kind: str = option(
        "backbone", metavar="KIND", choices=KINDS, help=f"what to write: {', '.join(KINDS)}"
    )
    out: Path = option(
        Path(),
        metavar="FOLDER",
        default_text="the current folder",
        help="where the package's own folder is made",
    )


SUBCOMMANDS = {
    "list": ListOptions,
    "info": InfoOptions,
    "check": CheckOptions,
    "new": NewOptions,
}


def main(argv: Sequence[str]) -> int:
    """Run one subcommand; returns the exit code."""
    description = "See which parts are here and from where, check one, or write your own."
    options = parse_subcommand(argv, "wishbone plugins", description, SUBCOMMANDS, EXAMPLES)
    return RUN[type(options)](options)


def _list(options: ListOptions) -> int:
    """Print a table of parts, then one of plug-ins."""
    everything = loaded()
    entries = [e for e in everything.registry.entries() if options.kind in (None, e.kind)]
    if options.json:
        print(json.dumps(_as_json(entries, everything), indent=2))
        return 0
    rows = [("KIND", "KEY", "FROM", "WHAT")]
    rows += [(e.kind, e.key, e.source, e.summary) for e in entries]
    rows += [
        (kind, key, "conflict", " and ".join(e.source for e in claims))
        for (kind, key), claims in sorted(everything.registry.conflicts.items())
        if options.kind in (None, kind)
    ]
    _print_table(rows)
    print()
    plugins = [("PLUG-IN", "STATUS", "FROM", "WHY")]
    plugins += [(p.name, *_status(p)) for p in everything.plugins]
    _print_table(plugins)
    return 0


def _status(plugin: PluginStatus) -> tuple[str, str, str]:
    """Status, source and reason of a plug-in, with the packages that its parts will miss."""
    unmet = unmet_requirements(plugin.distribution)
    if plugin.status != "ok" or not unmet:
        return plugin.status, plugin.source, " ".join(plugin.detail.split())
    names = " ".join(f"'{requirement.partition(' (')[0]}'" for requirement in unmet)
    return "incomplete", plugin.source, f"needs {', '.join(unmet)}: pip install {names}"


def _info(options: InfoOptions) -> int:
    """Print everything about one key, without building the part."""
    for entry in _find(options.key, options.kind):
        cls = loaded().registry.get(entry.kind, entry.key)
        print(f"{entry.kind} '{entry.key}': {entry.summary}")
        print(f"  from     {entry.source}")
        for requirement in unmet_requirements(entry.distribution):
            print(f"  missing  {requirement}")
        print(f"  class    {entry.target}")
        if hasattr(cls, "caps"):
            promises = [f"{name}={value}" for name, value in vars(cls.caps).items() if value]
            print(f"  promises {', '.join(promises) or 'nothing'}")
        if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
            continue
        print("  config")
        for name, kind, default, about in fields_of(cls.Config):
            print(f"    {name}: {kind}{default}")
            print(f"        {about}")
    return 0


def _check(options: CheckOptions) -> int:
    """Run the contract suite and print its verdict, one line per check."""
    entries = _find(options.key, options.kind)
    for entry in entries:
        loaded().registry.get(entry.kind, entry.key)
    from wishbone.core.testing import check

    failed = 0
    for entry in entries:
        print(f"{entry.kind} '{entry.key}' ({entry.source}, {entry.target})")
        results = check(entry.kind, entry.key)
        for result in results:
            verdict = "FAILED" if not result.passed else "none" if result.skipped else "ok"
            print(f"  {verdict:<7}{result.name:<20}{result.detail}")
            if not result.passed:
                print(f"{'':<29}should: {result.sentence}")
        wrong = [result for result in results if not result.passed]
        failed += len(wrong)
        print(f"  {len(results) - len(wrong)} of {len(results)} checks passed")
    if failed:
        checks = "1 check" if failed == 1 else f"{failed} checks"
        raise GateFailed(
            f"'{options.key}' does not keep its contract: {checks} failed.",
            "the checks marked FAILED above",
            "Correct the part; its contract is the class or protocol that it extends.",
        )
    return 0


def _new(options: NewOptions) -> int:
    from wishbone.core.registry.scaffold import full_key, write_package

    folder = write_package(options.name, options.kind, options.out)
    print(f"wrote {folder}")
    print(f"next: pip install -e {folder} && wishbone plugins check {full_key(options.name)}")
    return 0


RUN: dict[type, Callable[[Any], int]] = {
    ListOptions: _list,
    InfoOptions: _info,
    CheckOptions: _check,
    NewOptions: _new,
}


def _find(key: str, kind: str | None) -> list[Entry]:
    """Return every entry with this key. Raises the registry's error where there is none."""
    registry = loaded().registry
    kinds = [kind] if kind else [k for k in KINDS if key in registry.names(k)]
    if not kinds:
        _raise_missing(key, registry)
    return [registry.entry(k, key) for k in kinds]


def _raise_missing(key: str, registry: Registry) -> None:
    """Raise the error of the plug-in that should have brought ``key``, or that nobody has it."""
    for kind in KINDS:
        try:
            registry.entry(kind, key)
        except UnknownName:
            continue
    keys = sorted({entry.key for entry in registry.entries()})
    hint = did_you_mean(key, keys) or "Run 'wishbone plugins list' to see every name and plug-in."
    if broken := sorted({error.where for error in registry.failed.values()}):
        hint += f" These plug-ins failed, and one may have brought it: {'; '.join(broken)}."
    raise UnknownName(
        f"No part is named '{key}'.", f"the registry, which knows: {', '.join(keys)}", hint
    )


def fields_of(config: type[Any]) -> list[tuple[str, str, str, str]]:
    """(name, type, `` = default`` and range, the sentence under it) of a config dataclass."""
    import ast
    import inspect
    import textwrap
    from typing import get_type_hints

    from wishbone.core.config.schema import limits_of

    about: dict[str, str] = {}
    for cls in (base for base in reversed(config.__mro__) if dataclasses.is_dataclass(base)):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        except (OSError, TypeError, SyntaxError):
            continue  # a class without a file has no sentences to show
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                about[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    rows, limits, hints = [], limits_of(config), get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        if field.name in limits and isinstance(hints[field.name], type):
            kind = hints[field.name].__name__  # the type without the limit, which stands behind it
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        if field.default_factory is not dataclasses.MISSING:
            default = f" = {field.default_factory()!r}"
        if field.name in limits:
            default += f", {limits[field.name]}"
        rows.append((field.name, kind, default, about.get(field.name, "")))
    return rows


def _as_json(entries: list[Entry], everything: Loaded) -> dict[str, Any]:
    names = ("kind", "key", "target", "summary", "distribution", "version")
    return {
        "parts": [{name: getattr(e, name) for name in names} for e in entries],
        "plugins": [_plugin_json(plugin) for plugin in everything.plugins],
    }


def _plugin_json(plugin: PluginStatus) -> dict[str, Any]:
    names = ("name", "module", "distribution", "version", "status", "detail", "api", "seconds")
    unmet = unmet_requirements(plugin.distribution)
    return {**{name: getattr(plugin, name) for name in names}, "missing": unmet}


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as their longest cell; the last one runs on."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        # what another package says about its error may have several lines
        print(" ".join("  ".join([*cells, row[-1]]).splitlines()).rstrip())
