"""Suite of commands: help is printed, and unknown options are refused."""

from __future__ import annotations

import contextlib
import inspect
import io
from typing import Any

from wishbone.core.contract.errors import USAGE, WishboneError
from wishbone.core.testing.common import Check, Violation, require

UNKNOWN = "--no-such-option-anywhere"


def signature(command: Any, config: Any, module: str | None) -> None:
    """The target takes one argument: the list of words after its name."""
    require(callable(command), f"the target is a {type(command).__name__}, not a function")
    require(not inspect.isclass(command), "the target is a class; register its function main(argv)")
    try:
        inspect.signature(command).bind([])
    except TypeError as error:
        raise Violation(f"it cannot be called as main(argv): {error}") from error


def helps(command: Any, config: Any, module: str | None) -> str:
    """``--help`` prints the usage and ends with code 0."""
    code, printed = _run(command, ["--help"])
    require(code == 0, f"--help ends with code {code}")
    require(bool(printed.strip()), "--help prints nothing on standard output")
    return f"{len(printed.splitlines())} lines"


def refuses(command: Any, config: Any, module: str | None) -> None:
    """An unknown option is a usage error, code 2."""
    code, _ = _run(command, [UNKNOWN])
    require(code == USAGE, f"{UNKNOWN} ends with code {code}, not {USAGE}: it is swallowed")


def _run(command: Any, words: list[str]) -> tuple[int, str]:
    """Exit code and standard output; errors that are not for people pass."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = int(command(words) or 0)
        except WishboneError as error:
            code = error.exit_code
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return code, printed.getvalue()


CHECKS = (
    Check("signature", "A function is registered that takes the words.", signature),
    Check("helps", "--help prints the usage and ends with code 0.", helps),
    Check("refuses", "An unknown option ends with code 2.", refuses),
)
