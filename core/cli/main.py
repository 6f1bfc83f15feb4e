"""The command ``wishbone``: commands by name, and three lines when something is wrong.

Commands are parts of kind ``command``, so a plug-in adds one as it adds a backbone. Only the
registry is read here, and a command's module is imported only when it is asked for, so that
``wishbone --help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence

from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.extensions.command import Command
from wishbone.core.registry.entry_points import own_version
from wishbone.core.registry.loader import blame, guarded, registry
from wishbone.core.registry.registry import HOME, Entry, import_target

CORE = "wishbone.core."


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return in_three_lines(_run, argv)


def in_three_lines(run: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Run a command that raises: its error becomes three lines, and the exit code is returned."""
    words = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        return int(run(words) or 0)
    except WishboneError as error:
        if with_traceback:
            traceback.print_exc()
        return _report(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader (head, less) has what it wanted; a second error on flushing helps nobody
        sys.stdout = None
        return 0
    except Exception as error:
        if with_traceback:
            traceback.print_exc()
        return _report(blame(error) or _unexpected(error))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"wishbone {own_version()}")
        return 0
    return run_command(words[0], words[1:])


def run_command(key: str, words: Sequence[str]) -> int:
    """Run the command that is registered as ``key`` -> exit code. Raises what the registry does."""
    entry = registry().entry("command", key)
    command: Command = import_target(entry)
    with guarded(entry, passing=(SystemExit,)):
        return int(command(words) or 0)


def _help() -> str:
    entries = registry().of("command")
    sections = {
        "": [e for e in entries if e.target.startswith(CORE)],
        "for single parts:": [
            e for e in entries if e.distribution == HOME and not e.target.startswith(CORE)
        ],
        "from plug-ins:": [e for e in entries if e.distribution != HOME],
    }
    width = max(len(e.key) for e in entries) + 2
    lines = ["usage: wishbone COMMAND ...", "", "Text to speech with exchangeable parts."]
    for title, commands in sections.items():
        if commands:
            lines += ["", title] if title else [""]
            lines += [f"  {e.key:<{width}}{e.summary}{_source(e)}" for e in commands]
    lines += [
        "",
        "'wishbone COMMAND --help' shows options and examples. With any command, --traceback shows",
        'where an error came from. To begin with: wishbone say "Hello there." -o hello.wav',
    ]
    return "\n".join(lines)


def _source(entry: Entry) -> str:
    return "" if entry.distribution == HOME else f" ({entry.source})"


def _report(error: WishboneError) -> int:
    print("\n".join(error.lines()), file=sys.stderr)
    return error.exit_code


def _unexpected(error: Exception) -> WishboneError:
    """Make an error that nobody meant to raise one of three lines."""
    frames = traceback.extract_tb(error.__traceback__)
    last = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    return WishboneError(
        f"{type(error).__name__}: {error}",
        last,
        "This was not foreseen; run it again with --traceback and report what it prints.",
    )


if __name__ == "__main__":
    sys.exit(main())
