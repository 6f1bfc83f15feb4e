"""``wishbone say``: a text of any length into an audio file, or out as it is spoken."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.audio import word_times
from wishbone.core.cli.arguments import parse
from wishbone.core.cli.speech import speaking
from wishbone.core.cli.speech.speaking import (
    SayOptions,
    load_system,
    load_voice,
    named,
    print_words,
    read_text,
    require_word_times,
    warn_unlearned,
    warn_untrained,
)
from wishbone.core.contract.errors import UsageError, WishboneError, when_stopped

if TYPE_CHECKING:
    from torch import Tensor

    from wishbone.core.speak.utterance import Utterance
    from wishbone.core.speak.voice import Voice
    from wishbone.core.system.system import System

EXAMPLES = """examples:
  wishbone say "Hello there." -o hello.wav
  wishbone say --file book.txt -o book.ogg --system quickstart-transformer
  wishbone say --lines sentences.txt -o said.wav
  wishbone say "Hello." -o hello.flac --voice me.wav --transcript "What I say in it."
  wishbone say "Hello." -o hello.wav --system NAME weights=FOLDER \\
      --voice me.wav --instruct "in a whisper"
  wishbone say --revoice you.wav -o me.wav --system NAME weights=FOLDER --voice me.wav
  wishbone say "Hello." -o hello.wav --seed 7 sampling.temperature=0.8
  wishbone say --normalise-only 'Dr. Smith paid $5.3 million on 3/4/2021.'
  wishbone say --file book.txt -o book.flac --words book.srt
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
    options = parse(SayOptions, argv, "wishbone say", EXAMPLES)
    words = [] if options.text is None else [options.text]
    overrides = options.overrides
    if options.file or options.revoice or options.lines:
        # without a text the first override takes its place
        words, overrides = [], [*words, *overrides]
    _require_overrides(overrides)
    if options.dry_run:
        from wishbone.core.config.compose import dump
        from wishbone.core.system.spec import read

        print(dump(read(options.system, overrides)), end="")
        return 0
    if options.normalise_only:
        if options.revoice:
            raise UsageError(
                "A recording has no text to print.", "--revoice with --normalise-only", "Drop one."
            )
        source = read_text(words, options.file or options.lines, options.stream)
        return print_words(options, overrides, source)
    if not options.out:
        raise UsageError(
            "the following arguments are required: -o/--out", "wishbone say", "Add -o FILE.wav."
        )
    if options.lines:
        from wishbone.core.cli.speech.say_lines import speak_lines

        return speak_lines(options, overrides)
    if options.revoice and options.guidance is not None:
        raise UsageError(
            "Voice conversion draws no codes, so nothing can guide it.",
            "--guidance with --revoice",
            "Leave one of them out.",
        )
    target = _check_target(options)
    times = _check_words(options)
    text = "" if options.revoice else read_text(words, options.file, options.stream)
    system = load_system(options, overrides)
    text = named(system.tokenizer, text)
    if times:
        require_word_times(system.layout, options.system)
    voice = load_voice(system, options)
    spoken = _Spoken(system, text, voice, options)
    if target is None:
        _to_stdout(spoken)
    else:
        _to_file(spoken, target, options.stream)
    spoken.report("standard output" if target is None else str(target))
    if times:
        words = [word for utterance in spoken.record for word in utterance.words]
        word_times.write(times, words, spoken.samples / spoken.rate)
    return 0


def _require_overrides(words: Sequence[str]) -> None:
    for word in words:
        if "=" not in word:
            raise UsageError(
                f"'{word}' is neither the text nor a key=value.",
                "wishbone say",
                "Put quotation marks around the whole text.",
            )


def _check_target(options: SayOptions) -> Path | None:
    """Return the file to write, checked before any work is done; None is standard output."""
    from wishbone.core.audio.files import check_target

    return None if options.out == "-" else check_target(options.out, options.force)


def _check_words(options: SayOptions) -> Path | None:
    """Return the file for the times of words, checked before any work is done."""
    if options.words is None:
        return None
    if options.revoice:
        raise UsageError(
            "Voice conversion reads no text, so it knows no words.",
            "--words with --revoice",
            "Leave one of them out.",
        )
    return word_times.check_target(options.words, options.force)


class _Spoken:
    """The chunks of one request, and how long they took."""

    def __init__(
        self,
        system: System,
        text: str | Iterator[str],
        voice: Voice | None,
        options: SayOptions,
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
        start = time.perf_counter()
        for chunk in self._chunks():
            if not len(chunk):
                continue
            self.seconds = time.perf_counter() - start
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
        from wishbone.core.audio import files
        from wishbone.core.speak import text_to_speech
        from wishbone.core.speak.voice_conversion import revoice

        if self.source:
            return revoice(self.system, files.read(self.source), self.voice, self.seed)
        return text_to_speech.stream(
            self.system, self.text, self.voice, self.seed, self.record, guidance=self.guidance
        )

    def _progress(self) -> None:
        if sys.stderr.isatty():
            progress = f"{self.samples / self.rate:7.1f} s spoken, {len(self.record)} pieces"
            print(f"\r{progress}", end="", file=sys.stderr, flush=True)

    def report(self, target: str) -> None:
        """Print the length and speed, on standard error where samples go to standard output."""
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        length = self.samples / self.rate
        print(
            f"{target}: {length:.2f} s of speech in {self.seconds:.2f} s"
            f" ({self.seconds / length:.2f} of real time), first sound after {self.first:.2f} s,"
            f" engine {self.system.model.engine}",
            file=sys.stderr if target == "standard output" else sys.stdout,
        )
        speaking.note_trouble(self.record)
        transcript = self.voice.transcript if self.voice and not self.voice.instruct else ""
        short = [
            utterance for utterance in self.record if 2 * len(utterance.text) < len(transcript)
        ]
        if short and not self.system.layout.alternates:
            print(
                f"note: {len(short)} of {len(self.record)} pieces are less than half as long as the"
                f" voice's transcript, which some models speak badly: {short[0].text[:60]}",
                file=sys.stderr,
            )


def _to_file(spoken: _Spoken, target: Path, stream: bool) -> None:
    from wishbone.core.audio.files import Writer

    # the target was checked before; it may only have appeared since by our own --force
    with when_stopped(
        lambda: f"{target} holds what was spoken so far" if stream else f"{target} is not written"
    ):
        with Writer(target, spoken.rate, overwrite=True, live=stream) as writer:
            for chunk in spoken if stream else list(spoken):
                writer.write(chunk)


def _to_stdout(spoken: _Spoken) -> None:
    for chunk in spoken:
        samples = (chunk.clamp(-1, 1) * 32767).round().short().numpy()
        sys.stdout.buffer.write(samples.astype("<i2").tobytes())
        sys.stdout.buffer.flush()
