"""The command ``wishbone``: commands by name, and three lines when something is wrong.

Commands are parts of kind ``command``, so a plug-in adds one as it adds a backbone. Only the
registry is read here, and a command's module is imported only when it is asked for, so that
``wishbone --help`` answers at once.

How a command ends is decided here alone: errors of Wishbone and of the operating system become
three lines, a reader that goes away (``| head``) ends it quietly, SIGINT and SIGTERM end it with
130 and the sentences that ``when_stopped`` adds.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from wishbone.core.contract.errors import STOPPED, UsageError, WishboneError
from wishbone.core.contract.extensions.command import Command
from wishbone.core.registry.entry_points import own_version
from wishbone.core.registry.loader import blame, guarded, registry
from wishbone.core.registry.registry import HOME, Entry, import_target

CORE = "wishbone.core."
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file that can take no more."""
REASONS = {
    errno.ENOENT: ("There is no such file or folder, and none can be made there.", "Check it."),
    errno.EACCES: ("It may not be read or written.", "Change its rights, or choose another."),
    errno.EPERM: ("It may not be read or written.", "Change its rights, or choose another."),
    errno.EROFS: ("The disk can only be read.", "Choose a place that can be written to."),
    errno.EISDIR: ("This is a folder, not a file.", "Name a file."),
    errno.ENOTDIR: ("A part of this path is a file, not a folder.", "Choose another place."),
    errno.EEXIST: ("There is something of this name already.", "Choose another name."),
    errno.ENOTEMPTY: ("There is something of this name already.", "Choose another name."),
    errno.ENAMETOOLONG: ("The name is too long.", "Choose a shorter one."),
    errno.EIO: ("It could not be read or written: an error of the disk.", "Check the disk."),
    errno.EMFILE: ("Too many files are open.", "Raise the limit: ulimit -n 4096."),
}
"""Number of a system's error -> a sentence about its file, and what to do."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return in_three_lines(_run, argv)


def in_three_lines(run: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Run a command that raises: its error becomes three lines, and the exit code is returned."""
    words = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        with _sigterm_as_sigint():
            code = int(run(words) or 0)
            # what is still buffered may meet a full disk or a closed pipe, too
            sys.stdout and sys.stdout.flush()
            return code
    except KeyboardInterrupt as stopped:
        notes = vars(stopped).get("__notes__", ["the same command begins again"])
        _print_error(f"stopped: {'; '.join(notes)}")
        return STOPPED
    except BrokenPipeError:
        # the reader (head, less) has what it wanted; a second error on flushing helps nobody
        _drop_output()
        return 0
    except Exception as error:
        if with_traceback:
            traceback.print_exc()
        return _report(_as_wishbone_error(error))


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Let SIGTERM end the block as SIGINT does, where signals can be handled."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_wishbone_error(error: Exception) -> WishboneError:
    if isinstance(error, WishboneError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return system_error(error)
    if blamed := blame(error):
        return blamed
    known = isinstance(error, OSError) and error.errno in REASONS
    return system_error(error) if known else _unexpected(error)


def system_error(error: OSError) -> WishboneError:
    """Make an error of the operating system, such as a full disk, one of three lines."""
    path = os.fsdecode(error.filename2 or error.filename or "")
    if path.endswith(".tmp"):
        # an unfinished file, of which nobody knows: its folder is what refuses
        path = str(Path(path).parent)
    if error.errno in FULL:
        if not path:
            _drop_output()
        return WishboneError(
            f"There is no space left: {error.strerror}.",
            path or "the file or the device that was written to",
            "Free some space, then repeat the command; complete files are as they were.",
        )
    what, do = REASONS[error.errno or 0]
    return UsageError(what, path, do)


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
    _print_error("\n".join(error.lines()))
    return error.exit_code


def _print_error(text: str) -> None:
    with suppress(OSError, ValueError):  # whoever read it has gone
        print(text, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Lead standard output to nowhere, so that leaving does not try to write what is buffered."""
    with suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.stdout = None


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
