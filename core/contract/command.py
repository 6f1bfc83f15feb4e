"""The contract of a command of ``wishbone``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Command(Protocol):
    """The contract of a command: the function that a plug-in registers as kind ``command``.

    ``wishbone KEY WORDS...`` calls it. Its module is imported only then; ``wishbone --help`` shows
    the summary it is registered with. A key with a dot is a subcommand: ``data.align`` is called by
    ``wishbone data align``.
    """

    def __call__(self, argv: Sequence[str]) -> int | None:
        """Run with the words after the command's name -> the exit code; None means 0.

        ``--help`` prints how to use it and ends by ``SystemExit(0)`` as argparse does, or returns
        0. Words it cannot follow raise ``UsageError`` or ``SystemExit(2)``. Other errors meant for
        people are a ``WishboneError``: three lines on standard error.
        """
