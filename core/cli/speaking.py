"""Options and warnings that every command that speaks shares."""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.contract.errors import UsageError

if TYPE_CHECKING:
    from wishbone.core.speak.voice import Voice
    from wishbone.core.system.system import System


def read_text(words: list[str], file: str | None, stream: bool) -> str | Iterator[str]:
    """The text to speak; standard input is handed on as it comes when streaming."""
    text = words[0] if words else None
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UsageError(
                f"The text cannot be read: {error.strerror}.", file, "Check the name."
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError(
                "The text is not UTF-8.", file, "Convert it, for example with iconv."
            ) from error
    elif text == "-":
        text = _arriving() if stream else sys.stdin.read()
    if text is None or (isinstance(text, str) and not text.strip()):
        raise UsageError(
            "There is no text to speak.",
            file or "wishbone say",
            "Give a text in quotation marks, --file FILE, or - for standard input.",
        )
    return text


def _arriving() -> Iterator[str]:
    """Standard input, each piece as soon as whoever writes it lets go of it."""
    pipe = getattr(sys.stdin, "buffer", None)
    if pipe is None:
        yield from iter(sys.stdin.readline, "")
        return
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    while piece := pipe.read1(1 << 16):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def load_system(options: argparse.Namespace, overrides: list[str]) -> System:
    """The system that shall speak, with the engine asked for."""
    from wishbone.core.speak.speaker import load
    from wishbone.core.system.spec import read, require

    if options.guidance not in (None, 1):
        require(read(options.system, overrides), "say --guidance", "varlen")
    return load(options.system, overrides, options.device, options.engine)


def load_voice(system: System, options: argparse.Namespace) -> Voice | None:
    """Who shall speak; None leaves it to the system."""
    from wishbone.core.speak.voice import RECORDINGS, Voice, find

    voice, transcript = options.voice, options.transcript
    recording = voice is not None and voice.lower().endswith(RECORDINGS)
    if transcript and not recording:
        raise UsageError(
            "There is a transcript but no recording it belongs to.",
            "--transcript",
            "Add --voice with a .wav, .flac, .ogg or .mp3 file.",
        )
    if not (options.instruct or options.adapter or options.save_voice or voice is not None):
        return None
    if recording:
        found = Voice.from_audio(system, voice, transcript or "", name=Path(voice).stem)
    else:
        found = find(voice or system.config.get("voice"), system)
    found = found.instructed(options.instruct) if options.instruct else found
    found = found.adapted(options.adapter) if options.adapter else found
    if options.save_voice:
        found = found.with_state(system)
        found.save(options.save_voice, overwrite=options.force)
    return found


def warn_untrained(system: System) -> None:
    """Say on standard error what a listener should know of the weights."""
    for note in system.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not system.config.get("weights") and not system.config.get("backbone", {}).get("weights"):
        print(
            "warning: the system names no 'weights:', so its language model is untrained",
            file=sys.stderr,
        )


def warn_unlearned(system: System, guidance: float | None) -> None:
    """Say on standard error where a guide is asked for that the weights may know nothing of."""
    from wishbone.core.speak.guidance import unlearned

    names = unlearned(system, guidance)
    if names:
        print(
            f"warning: nothing says that the weights learned to do without {', '.join(names)}, so"
            " what guides them may be noise",
            file=sys.stderr,
        )
