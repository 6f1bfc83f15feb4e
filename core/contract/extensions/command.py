"""The contract of a command of ``wishbone``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Command(Protocol):
    """The contract of a command: the function that a plug-in registers as kind ``command``.

    ``wishbone KEY WORDS...`` imports its module and calls it; ``wishbone --help`` shows the summary
    of its registration.
    """

    def __call__(self, argv: Sequence[str]) -> int | None:
        """Run with the command line after the name -> the exit code; None means 0.

        ``--help`` prints the usage and ends by ``SystemExit(0)`` as argparse does, or returns 0.
        Wrong arguments raise ``UsageError`` or ``SystemExit(2)``. Other errors meant for people
        are a ``WishboneError``: three lines on standard error.
        """
        ...
