"""``wishbone say``: a text of any length into an audio file, or out as it is spoken."""

from __future__ import annotations

import argparse
import codecs
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.arguments import Parser, add_engine
from wishbone.core.errors import UsageError, WishboneError

if TYPE_CHECKING:
    from torch import Tensor

    from wishbone.core.pipeline import Utterance
    from wishbone.core.system import System
    from wishbone.core.voice import Voice

SYSTEM = "quickstart-rwkv7"
"""What speaks when nobody says."""

EXAMPLES = """examples:
  wishbone say "Hello there." -o hello.wav
  wishbone say --file book.txt -o book.ogg --system quickstart-transformer
  wishbone say --lines sentences.txt -o said.wav
  wishbone say "Hello." -o hello.flac --voice me.wav --transcript "What I say in it."
  wishbone say "Hello." -o hello.wav --system cosyvoice2 weights=CosyVoice2-0.5B \\
      --voice me.wav --instruct "in a whisper"
  wishbone say --revoice you.wav -o me.wav --system cosyvoice2 weights=... --voice me.wav
  wishbone say "Hello." -o hello.wav --seed 7 sampling.temperature=0.8
  tail -f log.txt | wishbone say - --stream -o - | aplay -f S16_LE -r 24000"""


def main(argv: list[str]) -> int:
    """Run the command; raises ``WishboneError`` for whatever cannot be done."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        return _main(argv)
    finally:
        warnings.formatwarning = usual


def _main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    words = [] if options.text is None else [options.text]
    if (options.file or options.revoice or options.lines) and words:
        # without a text the first override takes its place
        options.overrides.insert(0, words.pop())
    overrides = _check_overrides(options.overrides)
    if options.lines:
        from wishbone.core.serve.lines import speak_lines

        return speak_lines(options, overrides)
    if options.revoice and options.guidance is not None:
        raise UsageError(
            "Voice conversion draws no codes, so nothing can guide it.",
            "--guidance with --revoice",
            "Leave one of them out.",
        )
    target = _check_target(options)
    text = "" if options.revoice else read_text(words, options.file, options.stream)
    system = load_system(options, overrides)
    voice = load_voice(system, options)
    spoken = _Spoken(system, text, voice, options)
    if target is None:
        _to_stdout(spoken)
    else:
        _to_file(spoken, target, options.stream)
    spoken.report("standard output" if target is None else str(target))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="wishbone say",
        description="Speak a text of any length.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="?", help="what to say; - reads it from standard input")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the system's configuration"
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="read the text from a UTF-8 file")
    parser.add_argument(
        "--lines", metavar="FILE",
        help="speak every line of a file by itself, many at once: -o a.wav makes a-0001.wav, ...",
    )  # fmt: skip
    parser.add_argument(
        "--together", type=int, default=8, metavar="N", help="lines spoken at once (default: 8)"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE",
        help=".wav, .flac or .ogg; - writes 16-bit samples to standard output",
    )  # fmt: skip
    parser.add_argument("--system", default=SYSTEM, help=f"name or YAML file (default: {SYSTEM})")
    parser.add_argument("--voice", help="a voice by name or file, or a recording of one")
    parser.add_argument("--transcript", help="what the recording given to --voice says")
    parser.add_argument(
        "--adapter", default="", metavar="NAME",
        help="which of the system's adapters speaks; base is none (default: its own)",
    )  # fmt: skip
    parser.add_argument(
        "--instruct", default="", metavar="TEXT",
        help="how to speak, in words, where the system can be told",
    )  # fmt: skip
    parser.add_argument(
        "--save-voice", metavar="FILE",
        help="write the voice, .yaml, with all that a later start would have to compute",
    )  # fmt: skip
    parser.add_argument(
        "--revoice", metavar="FILE",
        help="no text: say what this recording says, in the voice (voice conversion)",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=float, metavar="S",
        help="exaggerate what a condition changes, beyond 1; needs a model that was trained for it"
        " (default: the system's sampling.guidance, 1 unless changed)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="same seed, same speech (default: 0)")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write each chunk as soon as it is spoken: a player can follow the file",
    )
    parser.add_argument(
        "--force", "--overwrite", action="store_true", help="replace a file that exists already"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps, ... (default: cpu)")
    add_engine(parser)
    return parser


def _check_overrides(words: Sequence[str]) -> list[str]:
    for word in words:
        if "=" not in word:
            raise UsageError(
                f"'{word}' is neither the text nor a key=value.",
                "wishbone say",
                "Put quotation marks around the whole text.",
            )
    return list(words)


def _check_target(options: argparse.Namespace) -> Path | None:
    """Where the file goes, known to be possible before any work is done; None is stdout."""
    from wishbone.core.audio import check_target

    return None if options.out == "-" else check_target(options.out, options.force)


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
    from wishbone.core.speaker import load
    from wishbone.core.spec import read, require

    if options.guidance not in (None, 1):
        require(read(options.system, overrides), "say --guidance", "varlen")
    return load(options.system, overrides, options.device, options.engine)


def load_voice(system: System, options: argparse.Namespace) -> Voice | None:
    """Who shall speak; None leaves it to the system."""
    from wishbone.core.voice import RECORDINGS, Voice, find

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


class _Spoken:
    """The chunks of one request, and how long they took."""

    def __init__(
        self,
        system: System,
        text: str | Iterator[str],
        voice: Voice | None,
        options: argparse.Namespace,
    ) -> None:
        self.system, self.text, self.voice = system, text, voice
        self.seed, self.source = options.seed, options.revoice
        self.guidance = options.guidance
        self.record: list[Utterance] = []
        self.rate = system.decoder.sample_rate
        self.samples = 0
        self.first: float | None = None
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        begin = time.perf_counter()
        for chunk in self._chunks():
            if not len(chunk):
                continue
            self.seconds = time.perf_counter() - begin
            if self.first is None:
                self.first = self.seconds
                warn_untrained(self.system)
                warn_unlearned(self.system, self.guidance)
            self.samples += len(chunk)
            self._progress()
            yield chunk
        if not self.samples:
            raise WishboneError(
                "The system said nothing: its decoder made no samples.",
                f"{len(self.record)} pieces of text",
                "Try another --seed or --voice, or check that the system is trained.",
            )

    def _chunks(self) -> Iterator[Tensor]:
        from wishbone.core import audio, pipeline
        from wishbone.core.revoice import revoice

        if self.source:
            return revoice(self.system, audio.read(self.source), self.voice, self.seed)
        return pipeline.stream(
            self.system, self.text, self.voice, self.seed, self.record, guidance=self.guidance
        )

    def _progress(self) -> None:
        if sys.stderr.isatty():
            done = f"{self.samples / self.rate:7.1f} s spoken, {len(self.record)} pieces"
            print(f"\r{done}", end="", file=sys.stderr, flush=True)

    def report(self, target: str) -> None:
        """What was written and how fast, on standard error where samples go to standard output."""
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        length = self.samples / self.rate
        print(
            f"{target}: {length:.2f} s of speech in {self.seconds:.2f} s"
            f" ({self.seconds / length:.2f} of real time), first sound after {self.first:.2f} s,"
            f" engine {self.system.model.engine}",
            file=sys.stderr if target == "standard output" else sys.stdout,
        )
        cut = [utterance for utterance in self.record if utterance.reason == "length"]
        if cut:
            print(
                f"note: {len(cut)} of {len(self.record)} pieces ended by the length rule, not by"
                f" the model, the first of them: {cut[0].text[:60]}",
                file=sys.stderr,
            )
        if words := sum(utterance.cut_words for utterance in self.record):
            print(
                f"note: {words} words inside the pieces were ended by the length rule",
                file=sys.stderr,
            )
        said = self.voice.transcript if self.voice and not self.voice.instruct else ""
        short = [utterance for utterance in self.record if 2 * len(utterance.text) < len(said)]
        if short and not self.system.layout.alternates:
            print(
                f"note: {len(short)} of {len(self.record)} pieces are less than half as long as the"
                f" voice's transcript, which some models speak badly: {short[0].text[:60]}",
                file=sys.stderr,
            )


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
    from wishbone.core.guidance import unlearned

    names = unlearned(system, guidance)
    if names:
        print(
            f"warning: nothing says that the weights learned to do without {', '.join(names)}, so"
            " what guides them may be noise",
            file=sys.stderr,
        )


def _to_file(spoken: _Spoken, target: Path, stream: bool) -> None:
    from wishbone.core.audio import Writer

    # the target was checked before; it may only have appeared since by our own --force
    with Writer(target, spoken.rate, overwrite=True, live=stream) as writer:
        for chunk in spoken if stream else list(spoken):
            writer.write(chunk)


def _to_stdout(spoken: _Spoken) -> None:
    for chunk in spoken:
        samples = (chunk.clamp(-1, 1) * 32767).round().short().numpy()
        sys.stdout.buffer.write(samples.astype("<i2").tobytes())
        sys.stdout.buffer.flush()
