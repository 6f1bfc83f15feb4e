"""Errors for people: what happened, where, and what to do.

Every error Wishbone raises on purpose is a ``WishboneError`` of three sentences; the command line
prints exactly these three lines and leaves with the error's exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

USAGE, PLUGIN, GATE, RUNTIME = 2, 3, 4, 5
"""Exit codes: usage or config, plug-in, a gate that was not passed, everything else."""
STOPPED = 130
"""Exit code of a command that was stopped, by Ctrl-C (SIGINT) or SIGTERM."""


class WishboneError(Exception):
    """Base of all errors that Wishbone raises on purpose: three sentences.

    ``what`` happened, ``where`` (a file and line, a key, a command), and what to ``do``.
    """

    exit_code = RUNTIME
    """Exit code of a command that ends by it."""

    def __init__(self, what: str, where: str = "", do: str = "") -> None:
        # all three go to Exception, so that the error survives the way back from a worker process
        super().__init__(what, where, do)
        self.what = what
        self.where = where
        self.do = do

    def __str__(self) -> str:
        return " | ".join(part for part in (self.what, self.where, self.do) if part)

    def lines(self) -> list[str]:
        """Return the three lines that the command line prints."""
        return [
            f"error: {_one_line(self.what)}",
            f"where: {_one_line(self.where) or 'this command'}",
            f"do: {_one_line(self.do) or 'run it again with --traceback to see the way there'}",
        ]


class UsageError(WishboneError):
    """Raised for wrong arguments of a command."""

    exit_code = USAGE


class ConfigError(WishboneError):
    """Raised for a configuration that cannot be built."""

    exit_code = USAGE


class UnknownName(ConfigError):
    """Raised for a name that nothing has: a registry key, a file, a voice."""


class CapabilityError(WishboneError):
    """Raised where a feature needs a promise that the chosen part does not make."""

    exit_code = USAGE


class PluginError(WishboneError):
    """Raised where a plug-in cannot be used."""

    exit_code = PLUGIN


class PluginBroken(PluginError):
    """Raised where a plug-in, or a part it registered, fails to import or to run."""


class PluginIncompatible(PluginError):
    """Raised for a plug-in that was written for another version of the plug-in interface."""


class PluginConflict(PluginError):
    """Raised for a key that two distributions claim, so that neither has it."""


class MissingExtra(PluginError):
    """Raised where an optional package is needed that is not installed."""


class GateFailed(WishboneError):
    """Raised by a check that ran to its end and was not passed."""

    exit_code = GATE


class CheckpointError(WishboneError):
    """Raised for a file of weights that cannot be used."""


class DataError(WishboneError):
    """Raised for a corpus, a recording or a token file that cannot be used."""


@contextmanager
def when_stopped(note: Callable[[], str]) -> Iterator[None]:
    """Say what is left where the block is stopped by SIGINT or SIGTERM, and how to go on.

    ``note()`` returns the sentence, which the command line prints before it leaves.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(note())
        raise


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return "Did you mean 'x'?" for the nearest choice, or "" where none is near."""
    near = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
