"""The options of ``wishbone say``, and what speaking a text and speaking lines do with them."""

from __future__ import annotations

import codecs
import select
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wishbone.core.cli.arguments import COMPUTING, EngineOptions, argument, option
from wishbone.core.config import text_files
from wishbone.core.config.text_files import decoded
from wishbone.core.contract.errors import CapabilityError, UsageError
from wishbone.core.contract.part import NonNegative, Seed, Size
from wishbone.core.contract.sentences import PIECE_END

if TYPE_CHECKING:
    from wishbone.core.contract.layout import Layout
    from wishbone.core.contract.text import Tokenizer
    from wishbone.core.speak.utterance import Utterance
    from wishbone.core.speak.voice import Voice
    from wishbone.core.system.system import System

SYSTEM = "quickstart-rwkv7"
"""The system that speaks where none is named."""
PAUSE = 0.3
"""Seconds without more text that complete a line of standard input when streaming."""
MOST_NAMED = 8
TEXT = "what is spoken"
FILES = "where it goes"
VOICE = "whose voice, and how it speaks"
MODEL = "which model, and how it draws"


@dataclass(frozen=True, kw_only=True)
class SayOptions(EngineOptions):
    """Speak a text of any length, into a file or as sound that can be played at once."""

    text: str | None = argument(None, help="what to say; - reads it from standard input")
    overrides: list[str] = argument(
        [], metavar="key=value",
        help="changes to the system's configuration, such as sampling.temperature=0.8",
    )  # fmt: skip
    file: str | None = option(
        None, "-f", metavar="FILE", group=TEXT, help="read the text from this UTF-8 file"
    )
    lines: str | None = option(
        None, metavar="FILE", group=TEXT,
        help="speak every line of this file into a file of its own: -o a.wav makes a-0001.wav, ...",
    )  # fmt: skip
    words: str | None = option(
        None, metavar="FILE", group=FILES,
        help="write the time of every word to this .json, .srt or .TextGrid file, too",
    )  # fmt: skip
    together: Size = option(
        8, metavar="N", group=TEXT, help="with --lines: how many lines are spoken at once"
    )
    revoice: str | None = option(
        None, metavar="FILE", group=TEXT,
        help="instead of a text: say what this recording says, in the voice (voice conversion)",
    )  # fmt: skip
    normalise_only: bool = option(
        False, group=TEXT,
        help="print the words that would be spoken, a line for each piece, and speak nothing",
    )  # fmt: skip
    out: str = option(
        "", "-o", metavar="FILE", group=FILES, default_text="required",
        help="the file to write, .wav, .flac or .ogg; - writes 16-bit samples to standard output",
    )  # fmt: skip
    stream: bool = option(
        False, group=FILES,
        help="write each chunk as soon as it is spoken, so that a player can follow the file",
    )  # fmt: skip
    force: bool = option(False, "--overwrite", group=FILES, help="replace files that exist already")
    voice: str | None = option(
        None, metavar="NAME", group=VOICE, default_text="the system's own",
        help="a voice by name, a voice's .yaml file, or a recording of somebody",
    )  # fmt: skip
    transcript: str | None = option(
        None, metavar="TEXT", group=VOICE,
        help="what the recording given to --voice says; many systems copy a voice better with it",
    )  # fmt: skip
    instruct: str = option(
        "", metavar="TEXT", group=VOICE,
        help="how to speak, in words, for systems that were trained to follow such a text",
    )  # fmt: skip
    adapter: str = option(
        "", metavar="NAME", group=VOICE, default_text="the system's own",
        help="which of the system's adapters speaks; base means none of them",
    )  # fmt: skip
    save_voice: str | None = option(
        None, metavar="FILE", group=VOICE,
        help="write the voice to this .yaml file, with all that a later start would compute again",
    )  # fmt: skip
    system: str = option(
        SYSTEM, metavar="NAME", group=MODEL,
        help="a bundled system's name, a YAML file, or a folder that a training exported",
    )  # fmt: skip
    seed: Seed = option(
        0, metavar="N", group=MODEL, help="start of the random numbers: same seed, same speech"
    )
    guidance: NonNegative | None = option(
        None, metavar="SCALE", group=MODEL, default_text="the system's, usually 1",
        help="exaggerate what the text or the voice changes, beyond 1; for models trained for it",
    )  # fmt: skip
    dry_run: bool = option(
        False, group=MODEL, help="print the system's resolved configuration, and say nothing"
    )
    device: str = option(
        "cpu", metavar="NAME", group=COMPUTING, help="where it is computed: cpu, cuda, mps, ..."
    )


def read_text(words: list[str], file: str | None, stream: bool) -> str | Iterator[str]:
    """Read the text to speak; standard input is handed on as it comes when streaming."""
    text = words[0] if words else None
    if file is not None:
        text = text_files.read_text(file)
    elif text == "-":
        if sys.stdin is None:
            raise UsageError(
                "Standard input is closed.", "wishbone say -", "Give the text, or --file FILE."
            )
        text = _standard_input() if stream else _all_of_standard_input()
    if text is None or (isinstance(text, str) and not text.strip()):
        raise UsageError(
            "There is no text to speak.",
            file or "wishbone say",
            "Give a text in quotation marks, --file FILE, or - for standard input.",
        )
    return text


def _all_of_standard_input() -> str:
    pipe = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if pipe is None else decoded(pipe.read(), "standard input")


def _standard_input() -> Iterator[str]:
    """Yield standard input, each part of it as soon as the program that writes it sends it."""
    pipe = getattr(sys.stdin, "buffer", None)
    if pipe is None:
        yield from iter(sys.stdin.readline, "")
        return
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    while chunk := pipe.read1(1 << 16):
        # a log has no full stops: a line that nothing follows for a while is complete
        pause = chunk.endswith(b"\n") and not _arrives(pipe)
        yield decoder.decode(chunk) + PIECE_END * pause
    yield decoder.decode(b"", final=True)


def _arrives(pipe: BinaryIO) -> bool:
    """Wait a moment for more of ``pipe``; True where it cannot be asked, as with Windows' pipes."""
    try:
        return bool(select.select([pipe], [], [], PAUSE)[0])
    except (OSError, ValueError):
        return True


def print_words(options: SayOptions, overrides: Sequence[str], text: str | Iterator[str]) -> int:
    """Print what will be spoken, piece by piece, without any model."""
    from wishbone.core.system.spec import parse_slot, read

    tokenizer: Tokenizer = parse_slot(read(options.system, overrides), "tokenizer").build()
    from wishbone.core.speak.utterance import without_controls

    text = without_controls(named(tokenizer, text), tokenizer.space)
    for piece, _ in tokenizer.pieces(text):
        print(tokenizer.prepare(piece), flush=True)
    return 0


def named(tokenizer: Tokenizer, text: str | Iterator[str]) -> str | Iterator[str]:
    """The text itself; what cannot be spoken in it is named on standard error."""
    if isinstance(text, str):
        _warn_left_out(tokenizer, text)
        return text
    return _passed(tokenizer, text)


def _passed(tokenizer: Tokenizer, pieces: Iterator[str]) -> Iterator[str]:
    warned: set[str] = set()
    for piece in pieces:
        _warn_left_out(tokenizer, piece, warned)
        yield piece


def _warn_left_out(tokenizer: Tokenizer, text: str, warned: set[str] | None = None) -> None:
    """Name what is left out, each thing once; ``warned`` holds what was named before."""
    from wishbone.core.speak.utterance import controls

    warned = set() if warned is None else warned
    names = [name for name in controls(tokenizer.space) if name in text]
    lost = [name for name in [*names, *tokenizer.left_out(text)] if name not in warned]
    warned.update(lost)
    if lost:
        more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
        print(
            f"warning: left out, because it cannot be spoken: {' '.join(lost[:MOST_NAMED])}{more}",
            file=sys.stderr,
        )


def load_system(options: SayOptions, overrides: Sequence[str]) -> System:
    """Load the system that speaks, on the device and with the engine of the options."""
    from wishbone.core.speak.speaker import load
    from wishbone.core.system.spec import read, require

    if options.guidance not in (None, 1):
        require(read(options.system, overrides), "say --guidance", "varlen")
    return load(options.system, overrides, options.device, options.engine)


def require_word_times(layout: Layout, system: str) -> None:
    """Raise ``CapabilityError`` for a layout that does not know when a word ends."""
    if not layout.times_words:
        raise CapabilityError(
            f"The layout {type(layout).__name__} does not know when a word ends.",
            f"--words with the system '{system}'",
            "Use a system with 'pace: words', or find the words with 'wishbone data align'.",
        )


def load_voice(system: System, options: SayOptions) -> Voice | None:
    """Load or make the voice that speaks; None leaves it to the system."""
    from wishbone.core.speak.voice import RECORDINGS, Voice, find
    from wishbone.core.speak.voice_files import check_readable

    voice, transcript = options.voice, options.transcript
    check_readable(Path(voice or ""))
    if voice is not None and not voice.strip():
        raise UsageError(
            "The voice has no name.", "--voice", "Name one, or leave --voice out for the system's."
        )
    recording = voice is not None and voice.lower().endswith(RECORDINGS)
    if transcript and not recording:
        raise UsageError(
            "There is a transcript but no recording it belongs to.",
            "--transcript",
            f"Add --voice with a file whose name ends in {', '.join(RECORDINGS)}.",
        )
    if not (options.instruct or options.adapter or options.save_voice or voice is not None):
        return None
    if recording:
        speaker = Voice.from_audio(system, voice, transcript or "", name=Path(voice).stem)
    else:
        speaker = find(voice or system.config.get("voice"), system)
    speaker = speaker.instructed(options.instruct) if options.instruct else speaker
    speaker = speaker.adapted(options.adapter) if options.adapter else speaker
    if options.save_voice:
        speaker = speaker.with_state(system)
        speaker.save(options.save_voice, overwrite=options.force)
    return speaker


def note_trouble(record: Sequence[Utterance]) -> None:
    """Note on standard error what the length rule ended, what was drawn again, and what is wrong.

    The whole of what is wrong is in each ``Utterance``.
    """
    cut = [utterance for utterance in record if utterance.reason == "length"]
    words = sum(utterance.cut_words for utterance in record)
    again = [utterance for utterance in record if utterance.redraws]
    wrong = [u for u in record if u.trouble not in ("", "never stopped")]
    notes = []
    if cut:
        notes.append(
            f"{len(cut)} of {len(record)} pieces ended by the length rule, not by"
            f" the model, the first of them: {cut[0].text[:60]}"
        )
    if words:
        notes.append(f"{words} words inside the pieces were ended by the length rule")
    if again:
        notes.append(
            f"{len(again)} of {len(record)} pieces were drawn again, the first of them because of"
            f" '{again[0].redraws[0]}': {again[0].text[:60]}"
        )
    if wrong:
        notes.append(
            f"{len(wrong)} of {len(record)} pieces may be spoken wrongly, the first of them:"
            f" {wrong[0].trouble}, {wrong[0].text[:60]}"
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def warn_untrained(system: System) -> None:
    """Warn on standard error of weights that are missing or known to be weak."""
    for note in system.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not system.config.get("weights") and not system.config.get("backbone", {}).get("weights"):
        print(
            "warning: the system names no 'weights:', so its language model is untrained",
            file=sys.stderr,
        )


def warn_unlearned(system: System, guidance: float | None) -> None:
    """Warn on standard error of guidance by a condition that training never left out."""
    from wishbone.core.speak.guidance import unlearned

    names = unlearned(system, guidance)
    if names:
        print(
            f"warning: nothing says that the weights learned to do without {', '.join(names)}, so"
            " what guides them may be noise",
            file=sys.stderr,
        )
