"""The command ``wishbone``: commands by name, and three lines when something is wrong.

Commands are parts of kind ``command``, so a plug-in adds one as it adds a backbone. Only the
registry is read here, and a command's module is imported only when it is asked for, so that
``wishbone --help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from wishbone.core.contract.command import Command
from wishbone.core.contract.errors import WishboneError
from wishbone.core.registry.loader import blame, guarded, own_version, registry
from wishbone.core.registry.registry import HOME, Entry, import_target


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return in_three_lines(_run, argv)


def in_three_lines(run: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Run a command that raises: its error becomes three lines, and the exit code is returned."""
    words = list(sys.argv[1:] if argv is None else argv)
    whole = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        return int(run(words) or 0)
    except WishboneError as error:
        if whole:
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
        if whole:
            traceback.print_exc()
        return _report(blame(error) or _unexpected(error))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"wishbone {own_version()}")
        return 0
    return run_command(registry().entry("command", words[0]), words[1:])


def run_command(entry: Entry, words: list[str]) -> int:
    """Import a registered command and run it with the words after its name -> the exit code."""
    command: Command = import_target(entry)
    with guarded(entry, passing=(SystemExit,)):
        return int(command(words) or 0)


def subcommands(name: str) -> dict[str, Entry]:
    """Subcommands of the command ``name`` that plug-ins bring, as commands with a key NAME.SUB."""
    entries = registry().of("command")
    prefix = f"{name}."
    return {e.key.removeprefix(prefix): e for e in entries if e.key.startswith(prefix)}


def _help() -> str:
    lines = ["usage: wishbone COMMAND ...", "", "Text to speech with exchangeable parts.", ""]
    # a key with a dot is a subcommand, which its command lists
    entries = [entry for entry in registry().of("command") if "." not in entry.key]
    lines += [f"  {e.key:<10}{e.summary}" for e in entries if e.distribution == HOME]
    others = [e for e in entries if e.distribution != HOME]
    if others:
        width = max(len(e.key) for e in others) + 2
        lines += ["", "from plug-ins:"]
        lines += [f"  {e.key:<{width}}{e.summary} ({e.source})" for e in others]
    lines += [
        "",
        "'wishbone COMMAND --help' says more; --traceback shows where an error came from.",
    ]
    return "\n".join(lines)


def _report(error: WishboneError) -> int:
    print("\n".join(error.lines()), file=sys.stderr)
    return error.exit_code


def _unexpected(error: Exception) -> WishboneError:
    """An error nobody meant to raise, in the same three lines."""
    frames = traceback.extract_tb(error.__traceback__)
    last = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    return WishboneError(
        f"{type(error).__name__}: {error}",
        last,
        "This was not foreseen; run it again with --traceback and report what it prints.",
    )


if __name__ == "__main__":
    sys.exit(main())
