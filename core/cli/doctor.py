"""``wishbone doctor``: what is installed, what runs on this machine, and what is broken."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util

from wishbone.core.cli.arguments import option, parse
from wishbone.core.registry.loader import guarded, loaded
from wishbone.core.registry.registry import HOME

Check = tuple[str, bool, str]
"""(name, whether it is fine, one sentence)."""


NAMESAKE = "wishbone"
"""A distribution of others, whose module and command have the names of ours."""
EXAMPLES = """examples:
  wishbone doctor
  wishbone doctor --json | jq '."plug-ins"'

A line begins with ok, or with -- where something is absent or broken; it ends with what to do."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Tell what is installed, what runs on this machine, and what is broken.

    The exit code is 3 if a required package is missing or a plug-in is broken. A missing extra or
    GPU costs nothing.
    """

    json: bool = option(False, help="print the same as JSON, for programs")


def main(argv: Sequence[str]) -> int:
    """Print the report; 3 if a required package is missing or a plug-in is broken, else 0."""
    options = parse(DoctorOptions, argv, "wishbone doctor", EXAMPLES)
    sections = report()
    if options.json:
        print(json.dumps(sections, indent=2))
    else:
        for title, checks in sections.items():
            print(title)
            for name, fine, text in checks:
                print(f"  {'ok' if fine else '--'}  {name:<29} {text}")
    needed = [*sections["packages"], *sections["plug-ins"]]
    return 0 if all(fine for _, fine, _ in needed) else 3


def report() -> dict[str, list[Check]]:
    """Title -> checks. What is optional and absent is not fine, but costs nothing."""
    needed = requirements()
    answers, failures = _plugin_reports()
    return {
        "wishbone": _installation(),
        "packages": [
            *(_package(name) for name in needed.pop("", [])),
            *_namesakes(),
        ],
        "devices": _devices(),
        "kernels and parts": answers,
        "extras": [_extra(name, parts) for name, parts in sorted(needed.items())],
        "plug-ins": [*_plugins(), *failures],
    }


def requirements() -> dict[str, list[str]]:
    """Extra -> the distributions it asks for, ``""`` for those always needed; as installed."""
    needed: dict[str, list[str]] = {}
    try:
        lines = metadata.requires(HOME) or []
    except metadata.PackageNotFoundError:
        return needed
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if name and name[0] != HOME:
            needed.setdefault(extra[1] if extra else "", []).append(name[0])
    return needed


def _installation() -> list[Check]:
    package = util.find_spec("wishbone")
    return [
        (HOME, _version(HOME) != "", _version(HOME) or "not installed; run 'pip install -e .'"),
        # an editable install belongs to one checkout, even when run from another
        ("folder", True, os.path.dirname((package and package.origin) or "")),
        ("python", True, f"{platform.python_version()} at {sys.executable}"),
        ("system", True, platform.platform()),
    ]


def _package(name: str) -> Check:
    version = _version(name)
    return name, bool(version), version or f"not installed; pip install {name}"


def _namesakes() -> list[Check]:
    """Report another project's distribution that has our module and our command."""
    try:
        version = metadata.version(NAMESAKE)
    except metadata.PackageNotFoundError:
        return []
    text = f"{version} is another project with the module and the command 'wishbone'"
    return [(NAMESAKE, False, f"{text}; pip uninstall {NAMESAKE}, then install {HOME} again")]


def _devices() -> list[Check]:
    """List the processors torch can use, and why it cannot use the others."""
    try:
        import torch
    except ImportError as error:
        return [("torch", False, f"cannot be imported: {error}")]
    checks = [("cpu", True, f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            checks.append((f"cuda:{index}", True, text))
    else:
        why = (
            "no usable GPU or driver" if torch.version.cuda else "this torch is built without CUDA"
        )
        checks.append(("cuda", False, why))
    mps = torch.backends.mps.is_available()
    checks.append(("mps", mps, "Apple GPU" if mps else "not an Apple GPU"))
    return checks


def _plugin_reports() -> tuple[list[Check], list[Check]]:
    """Collect the plug-ins' reports on themselves, and a failed check for each that raises."""
    answers: list[Check] = []
    failures: list[Check] = []
    for plugin in loaded().plugins:
        if plugin.doctor is None:
            continue
        try:
            with guarded(plugin):
                answers += [(str(name), bool(ok), str(text)) for name, ok, text in plugin.doctor()]
        except Exception as error:
            text = f"{plugin.source}: its wishbone_doctor fails: {_cause(error)}"
            failures.append((plugin.name, False, text))
    return sorted(answers), failures


def _cause(error: Exception) -> str:
    """Name the error that was raised, not the one that ``guarded`` made of it."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def _extra(name: str, parts: Sequence[str]) -> Check:
    missing = [part for part in parts if not _version(part)]
    if missing:
        return name, False, f"missing {', '.join(missing)}; pip install 'wishbone-tts[{name}]'"
    return name, True, "complete"


def _plugins() -> list[Check]:
    checks = []
    for plugin in loaded().plugins:
        fine = plugin.status in ("ok", "disabled")
        text = f"{plugin.source}: {plugin.status}"
        checks.append((plugin.name, fine, f"{text}: {plugin.detail}" if plugin.detail else text))
    return checks


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # some machines carry a module without its metadata
        return "version unknown" if util.find_spec(name.replace("-", "_")) else ""
