"""``wishbone say --lines``: every line of a file into a file of its own, many at once.

While it runs, ``.NAME.unfinished.json`` beside the files says what is spoken and how, so that the
same command goes on after a kill; it is removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wishbone.core.cli.speech import speaking
from wishbone.core.cli.speech.speaking import SayOptions
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError, WishboneError, when_stopped

if TYPE_CHECKING:
    from wishbone.core.speak.server import SpokenRequest
    from wishbone.core.speak.voice import Voice
    from wishbone.core.system.system import System


def speak_lines(options: SayOptions, overrides: list[str]) -> int:
    """Run the command; raises ``WishboneError`` for whatever cannot be done.

    Line n of the file becomes file n, whatever lines are left out, and each is what ``say`` makes
    of that line alone with the same seed. A line that cannot be spoken is named, and the others
    are; then the command fails.
    """
    _check_options(options)
    text = speaking.read_text([], options.lines, stream=False)
    lines = {n: line for n, line in enumerate(text.splitlines(), start=1) if line.strip()}
    targets = _targets(Path(options.out), lines)
    record = _Unfinished(Path(options.out), options.force)
    record.check(targets)
    system = speaking.load_system(options, overrides)
    speaking.warn_untrained(system)
    speaking.warn_unlearned(system, options.guidance)
    speaking.named(system.tokenizer, "\n".join(lines.values()))
    lines = _speakable(system, lines)
    voice = speaking.load_voice(system, options)
    count = len(lines)
    done = record.begin(_digest(system, voice, options), lines, targets)
    lines = {n: line for n, line in lines.items() if n not in done}
    if done:
        print(f"{len(done)} of {count} lines are there already", file=sys.stderr)

    from wishbone.core.speak.server import Request, Server

    scale = system.sampling.guidance if options.guidance is None else options.guidance
    together = max(1, min(options.together, len(lines)))
    # a guided line takes two slots
    server = Server(system, together if scale == 1 else 2 * together)
    start, results, numbers = time.perf_counter(), {}, list(lines)
    requests = (Request(line, voice, options.seed, options.guidance) for line in lines.values())
    with when_stopped(
        lambda: (
            f"{len(done) + len(results)} of {count} lines are spoken; the same command"
            f" {'begins again' if options.force else 'goes on'}"
        )
    ):
        for spoken in server.say(requests):
            number = numbers[spoken.number]
            if spoken.error is None:
                spoken.audio.save(targets[number], overwrite=True)
                print(f"{targets[number]}: {spoken.audio.seconds:.2f} s of speech")
            else:
                print(f"line {number} failed: {spoken.error}", file=sys.stderr)
            results[number] = spoken
    record.end()
    _report(results, time.perf_counter() - start, together)
    return 0


def _report(results: dict[int, SpokenRequest], spent: float, together: int) -> None:
    """Print sums. Raises ``WishboneError`` where a line failed."""
    seconds = sum(spoken.audio.seconds for spoken in results.values())
    print(
        f"{len(results)} lines, {seconds:.2f} s of speech in {spent:.2f} s"
        f" ({spent / max(seconds, 1e-9):.2f} of real time), up to {together} at once"
    )
    cut = [n for n, one in results.items() if any(u.reason == "length" for u in one.utterances)]
    if cut:
        print(
            f"note: {len(cut)} lines ended, in part, by the length rule and not by the model:"
            f" {', '.join(map(str, sorted(cut)))}",
            file=sys.stderr,
        )
    failed = sorted(number for number, spoken in results.items() if spoken.error)
    if failed:
        raise WishboneError(
            f"{len(failed)} of {len(results)} lines failed, the others are spoken.",
            f"lines {', '.join(map(str, failed))}",
            "What is wrong with each stands above.",
        )


class _Unfinished:
    """The record of lines that are being spoken: what each says, and how all are spoken."""

    def __init__(self, pattern: Path, force: bool) -> None:
        self.path = pattern.with_name(f".{pattern.name}.unfinished.json")
        self._force = force

    def check(self, targets: dict[int, Path]) -> None:
        """Raise ``UsageError`` before any work where a file may not be written."""
        from wishbone.core.audio.files import check_target

        # files of an unfinished command are looked at again when it is known what they say
        overwrite = self._force or self.path.exists()
        for target in targets.values():
            check_target(target, overwrite)

    def begin(self, how: str, lines: dict[int, str], targets: dict[int, Path]) -> set[int]:
        """Write the record -> lines that the same command has spoken before.

        Raises ``UsageError`` for a file of anything else. With ``--force`` all is spoken anew, and
        nothing is recorded: old files look like new ones.
        """
        if self._force:
            self.path.unlink(missing_ok=True)
            return set()
        before = self._read()
        texts = {str(n): line for n, line in lines.items()}
        there = {n for n in lines if targets[n].exists()}
        same = before.get("how") == how
        other = [n for n in there if not same or before["lines"].get(str(n)) != texts[str(n)]]
        if other:
            raise UsageError(
                "The file exists already, and says something else or was spoken otherwise.",
                str(targets[min(other)]),
                "Repeat the command that made it to go on, or say --force to speak all again.",
            )
        text = json.dumps({"how": how, "lines": texts}, ensure_ascii=False, indent=1)
        write_text(self.path, text + "\n")
        return there

    def end(self) -> None:
        """Remove the record: all lines are spoken."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_bytes())
            return {"how": str(values["how"]), "lines": dict(values["lines"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _digest(system: System, voice: Voice | None, options: SayOptions) -> str:
    """Return a hash of all that decides how a line is spoken."""
    from wishbone.core.speak.voice import model_key
    from wishbone.core.weights.fingerprint import fingerprint

    config = json.dumps(system.config, sort_keys=True, default=str)
    how = [config, model_key(system), fingerprint(system.decoder), system.model.engine]
    how += [repr(voice), str(options.seed), str(options.guidance), Path(options.out).suffix]
    return hashlib.sha256("\n".join(how).encode()).hexdigest()


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


def _targets(pattern: Path, lines: dict[int, str]) -> dict[int, Path]:
    """a.wav -> a-0001.wav, ..."""
    return {n: pattern.with_name(f"{pattern.stem}-{n:04d}{pattern.suffix}") for n in lines}


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
