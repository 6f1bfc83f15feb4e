"""``wishbone say --lines``: every line of a file into a file of its own, many at once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.cli.speech import speaking
from wishbone.core.cli.speech.speaking import SayOptions
from wishbone.core.contract.errors import UsageError

if TYPE_CHECKING:
    from wishbone.core.system.system import System


def speak_lines(options: SayOptions, overrides: list[str]) -> int:
    """Run the command; raises ``WishboneError`` for whatever cannot be done.

    Line n of the file becomes file n, whatever lines are left out, and each is what ``say`` makes
    of that line alone with the same seed.
    """
    _check_options(options)
    text = speaking.read_text([], options.lines, stream=False)
    lines = {n: line for n, line in enumerate(text.splitlines(), start=1) if line.strip()}
    targets = _targets(Path(options.out), lines, options.force)
    system = speaking.load_system(options, overrides)
    speaking.warn_untrained(system)
    speaking.warn_unlearned(system, options.guidance)
    speaking.named(system.tokenizer, "\n".join(lines.values()))
    lines = _speakable(system, lines)
    voice = speaking.load_voice(system, options)

    from wishbone.core.speak.server import Request, Server

    scale = system.sampling.guidance if options.guidance is None else options.guidance
    together = min(options.together, len(lines))
    # a guided line takes two slots
    server = Server(system, together if scale == 1 else 2 * together)
    start, seconds, cut = time.perf_counter(), 0.0, []
    numbers = list(lines)
    requests = (Request(line, voice, options.seed, options.guidance) for line in lines.values())
    for spoken in server.say(requests):
        number = numbers[spoken.number]
        spoken.audio.save(targets[number], overwrite=True)
        seconds += spoken.audio.seconds
        if any(utterance.reason == "length" for utterance in spoken.utterances):
            cut.append(number)
        print(f"{targets[number]}: {spoken.audio.seconds:.2f} s of speech")
    spent = time.perf_counter() - start
    print(
        f"{len(lines)} lines, {seconds:.2f} s of speech in {spent:.2f} s"
        f" ({spent / max(seconds, 1e-9):.2f} of real time), up to {together} at once"
    )
    if cut:
        print(
            f"note: {len(cut)} lines ended, in part, by the length rule and not by the model:"
            f" {', '.join(map(str, sorted(cut)))}",
            file=sys.stderr,
        )
    return 0


def _check_options(options: SayOptions) -> None:
    for name in ("file", "revoice", "stream", "words"):
        if getattr(options, name):
            raise UsageError(
                f"--lines and --{name} do not go together.",
                "wishbone say",
                "Leave one of them out.",
            )
    if options.out == "-":
        raise UsageError(
            "Many files cannot go to standard output.", "--lines with -o -", "Give -o a file name."
        )
    if options.together < 1:
        raise UsageError(
            f"{options.together} lines at once is none.", "--together", "Give 1 or more."
        )


def _targets(pattern: Path, lines: dict[int, str], force: bool) -> dict[int, Path]:
    """a.wav -> a-0001.wav, ..., all known to be possible before any work is done."""
    from wishbone.core.audio.files import check_target

    names = {n: pattern.with_name(f"{pattern.stem}-{n:04d}{pattern.suffix}") for n in lines}
    return {n: check_target(name, force) for n, name in names.items()}


def _speakable(system: System, lines: dict[int, str]) -> dict[int, str]:
    """Select the lines with anything to say; name the others on standard error."""

    def something(line: str) -> bool:
        return next(iter(system.tokenizer.pieces(line)), None) is not None

    speakable = {n: line for n, line in lines.items() if something(line)}
    for n in lines.keys() - speakable.keys():
        print(f"note: nothing in line {n} can be spoken: {lines[n][:60]}", file=sys.stderr)
    if not speakable:
        raise UsageError(
            "No line holds anything that can be spoken.", "--lines", "Give at least one word."
        )
    return speakable
