"""What a person is told when something is wrong: what happened, where, and what to do.

Every error Wishbone raises on purpose is a ``WishboneError`` of three sentences; the command line
prints exactly these three lines and leaves with the error's exit code.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

USAGE, PLUGIN, GATE, RUNTIME = 2, 3, 4, 5
"""Exit codes: usage or config, plug-in, a gate that was not passed, everything else."""


class WishboneError(Exception):
    """Something is wrong, said in three sentences."""

    exit_code = RUNTIME

    def __init__(self, what: str, where: str = "", do: str = "") -> None:
        # all three go to Exception, so that the error survives the way back from a worker process
        super().__init__(what, where, do)
        self.what = what
        self.where = where
        self.do = do

    def __str__(self) -> str:
        return " | ".join(part for part in (self.what, self.where, self.do) if part)

    def lines(self) -> list[str]:
        """The three lines the command line prints."""
        return [
            f"error: {_one_line(self.what)}",
            f"where: {_one_line(self.where) or 'this command'}",
            f"do: {_one_line(self.do) or 'run it again with --traceback to see the way there'}",
        ]


class UsageError(WishboneError):
    """A command was called in a way it cannot follow."""

    exit_code = USAGE


class ConfigError(WishboneError):
    """A configuration says something that cannot be built."""

    exit_code = USAGE


class UnknownName(ConfigError):
    """Nothing has this name."""


class CapabilityError(WishboneError):
    """A feature needs a promise that the chosen backbone does not make."""

    exit_code = USAGE


class PluginError(WishboneError):
    """A plug-in cannot be used."""

    exit_code = PLUGIN


class PluginBroken(PluginError):
    """A plug-in, or the part it registered, fails to import."""


class PluginIncompatible(PluginError):
    """A plug-in was written for another version of the plug-in interface."""


class PluginConflict(PluginError):
    """Two distributions claim the same name, so neither has it."""


class MissingExtra(PluginError):
    """A part needs an optional package that is not installed."""


class GateFailed(WishboneError):
    """A check ran to its end and said no."""

    exit_code = GATE


class CheckpointError(WishboneError):
    """A file of weights does not hold what it should."""


class DataError(WishboneError):
    """A corpus, a recording or a token file cannot be used."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"Did you mean 'x'?"``, or an empty string when no known name is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
