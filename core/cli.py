"""The command ``wishbone``: one table, and three lines when something is wrong.

Nothing but the table is parsed here, and a command's module is imported only when it is asked for,
so that ``wishbone --help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from wishbone.core.errors import UsageError, WishboneError, did_you_mean

COMMANDS = {
    "say": ("Speak a text into a file.", "wishbone.core.serve.say:main"),
    "text": ("Continue a text with a language model.", "wishbone.core.serve.text:main"),
    "ab": ("Compare systems that differ in one part, and write a report.",
           "wishbone.core.evaluate.ab:main"),
    "train": ("Train a model from a YAML file, or resume it.", "wishbone.core.train.command:main"),
    "data": ("Make audio with a teacher, and tokens from audio.",
             "wishbone.core.data.command:main"),
    "evaluate": ("Measure a system or a codec.", "wishbone.core.evaluate.command:main"),
    "plugins": ("List, check and write plug-ins.", "wishbone.core.plugin_command:main"),
    "bench": ("Measure speed and memory beside other projects.",
              "wishbone.core.bench.command:main"),
    "match": ("Find the size at which two backbones cost the same.", "wishbone.core.match:main"),
    "convert": ("Bring weights in from other projects, and out.", "wishbone.core.convert:main"),
    "doctor": ("Say what works on this machine, and why the rest does not.",
               "wishbone.core.doctor:main"),
}  # fmt: skip
"""Command -> (what it does, where it is)."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return guarded(_run, argv)


def guarded(run: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
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
        return _report(_unexpected(error))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from wishbone.core.plugin import own_version

        print(f"wishbone {own_version()}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UsageError(
            f"There is no command '{name}'.",
            "wishbone",
            f"{did_you_mean(name, COMMANDS)} Run 'wishbone --help' for all of them.".strip(),
        )
    module, _, function = COMMANDS[name][1].partition(":")
    return int(getattr(import_module(module), function)(rest) or 0)


def _help() -> str:
    lines = ["usage: wishbone COMMAND ...", "", "Text to speech with exchangeable parts.", ""]
    lines += [f"  {name:<10}{about}" for name, (about, _) in COMMANDS.items()]
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
