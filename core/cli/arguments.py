"""The parser of every command: errors in three lines, and words in any order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from wishbone.core.contract.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Takes ``key=value`` after options too, and raises ``UsageError`` for what it cannot follow.

    Its subparsers do the same, because they are of this class.
    """

    _branches = False
    _mixing = False

    def add_subparsers(
        self, *, dest: str = argparse.SUPPRESS, required: bool = False, metavar: str | None = None
    ) -> argparse._SubParsersAction:
        """As in the base class; such a parser hands its words on and mixes nothing itself."""
        self._branches = True
        return super().add_subparsers(dest=dest, required=required, metavar=metavar)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Options first, wherever they stand, then the words that are left."""
        if self._branches or self._mixing:
            return super().parse_known_args(args, namespace)
        return self.parse_known_intermixed_args(args, namespace)

    def parse_known_intermixed_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """What ``parse_known_args`` does; the base class calls that one from here."""
        self._mixing = True
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``; the command line prints it like any other error."""
        raise UsageError(f"{message}.", self.prog, f"See '{self.prog} --help'.")


def add_engine(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    """Add ``--engine``, which ``wishbone.core.contract.engines.parse_engine`` reads.

    Without a ``default`` a file may say it.
    """
    shown = "the file's 'engine', else auto" if default is None else default
    parser.add_argument(
        "--engine",
        default=default,
        metavar="NAME[:WEIGHTS]",
        help="how decoding steps are computed: auto is the fastest that this machine can have"
        " (C++, built once on first use); eager is plain PyTorch and gives the same samples from"
        " the same seed everywhere; native and graph ask for one of them, with float32,"
        f" bfloat16 or int8 weights, such as native:int8 (default: {shown})",
    )
