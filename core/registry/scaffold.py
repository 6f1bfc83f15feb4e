"""Writing of a complete third-party package: ``wishbone plugins new``."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.errors import UsageError
from wishbone.core.registry.entry_points import own_version
from wishbone.core.registry.loader import API

TEMPLATES = Path(__file__).parent / "templates"
HIDDEN = ("gitignore", "github/")
"""Beginnings of paths that get a dot in front."""
_VENDOR = re.compile(r"[a-z][a-z0-9]*")
"""Without dashes: acme-my/bone and acme/my-bone would be one package."""
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def kinds() -> list[str]:
    """Kinds of parts that have a template."""
    return sorted(p.name for p in TEMPLATES.iterdir() if p.is_dir() and p.name != "common")


def write_package(name: str, kind: str, out: str | Path = ".") -> Path:
    """Write a package with a part of ``kind`` named ``name`` (``vendor/name``) below ``out``.

    Returns its folder. Raises ``UsageError`` if the name is not one, the folder exists, or there
    is no template for ``kind``.
    """
    values = _names(name, kind)
    if kind not in kinds():
        raise UsageError(
            f"There is no template for a {kind}.",
            "wishbone plugins new",
            f"Use --kind {' or '.join(kinds())}, or start from one of them.",
        )
    folder = Path(out) / values["distribution"]
    if folder.exists():
        raise UsageError(
            "The folder exists already and is not overwritten.", str(folder), "Choose another name."
        )
    more = TEMPLATES / kind / "README.more.template"
    values["more"] = Template(more.read_text()).substitute(values) if more.is_file() else ""
    with new_folder(folder) as temporary:
        for source in (TEMPLATES / "common", TEMPLATES / kind):
            _fill(source, temporary, values)
    return folder


def full_key(name: str) -> str:
    """Return ``name`` as a key: a bare one gets the vendor ``my``."""
    return name if "/" in name else f"my/{name}"


def _fill(source: Path, target: Path, values: dict[str, str]) -> None:
    """Write every template below ``source`` to ``target`` with its ``$names`` replaced."""
    for template in sorted(source.rglob("*.template")):
        if template.name == "README.more.template":
            continue
        relative = str(template.relative_to(source)).removesuffix(".template")
        for name, value in (("PACKAGE", values["package"]), ("SHORT", values["short"])):
            relative = relative.replace(name, value)
        # packaging passes over hidden files, so the templates of some have no dot
        path = target / (f".{relative}" if relative.startswith(HIDDEN) else relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template.read_text()).substitute(values), encoding="utf-8")


def _names(name: str, kind: str) -> dict[str, str]:
    """Names in the templates, from ``vendor/name``; the vendor is ``my`` where there is none."""
    key = full_key(name)
    vendor, _, short = key.rpartition("/")
    if not _VENDOR.fullmatch(vendor) or not _NAME.fullmatch(short):
        raise UsageError(
            f"'{name}' cannot be a key.",
            "wishbone plugins new",
            "Use vendor/name in small letters and digits; the name may have dashes: acme/my-gru.",
        )
    words = re.split(r"[-_]", f"{vendor}-{short}")
    return {
        "kind": kind,
        "key": key,
        "short": short,
        "vendor": vendor,
        "distribution": "-".join(["wishbone", *words]),
        "package": "_".join(["wishbone", *words]),
        "cls": "".join(word.capitalize() for word in re.split(r"[-_]", short)),
        "summary": f"{short}, written with 'wishbone plugins new'",
        "range": _range(own_version()),
        "api": f"{API[0]}.{API[1]}",
    }


def _range(version: str) -> str:
    """Return the versions that a package may be used with: this one up to the next minor one.

    Empty where this is no installed version.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return ""
    major, minor = int(numbers[1]), int(numbers[2])
    return f">={major}.{minor},<{major}.{minor + 1}"
