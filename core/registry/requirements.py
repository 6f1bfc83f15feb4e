"""Packages that an installed distribution asks for and that are not there, or too old."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version


def unmet_requirements(distribution: str) -> list[str]:
    """Requirements of ``distribution`` that this environment does not meet, as they are written.

    Those of its extras are left out, since nobody has to want them. [] where the distribution is
    not installed. Nothing is imported.
    """
    # here, so that other commands start without it
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        return []
    unmet = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # its installer has refused it, or will
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            unmet.append(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(there, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier} ({there} is installed)")
    return unmet
