"""Versions of packages, for the signatures of metrics."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, or ``"none"``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"
