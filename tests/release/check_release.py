"""The whole check of a CosyVoice2 release on disk: loads it, speaks, compares, prints a report.

    python tests/release/check_release.py CosyVoice2-0.5B [--out FOLDER] [--prompt ME.wav
        --transcript "What I say in it."]

Every line is one thing that was looked at: "ok", "FAILED", or "note" for a figure without a
verdict. The exit code is 4 when anything failed. A 0.5 B model needs 8 GB and some minutes, and
another 0.5 GB for every second of the recording, which conversion reads twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))

from wishbone.core.audio.files import Audio
from wishbone.core.audio.files import read as read_audio
from wishbone.core.config.compose import bundled
from wishbone.core.contract.errors import GATE, WishboneError
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.speaker import load
from wishbone.core.speak.voice import Voice
from wishbone.core.speak.voice_conversion import revoice
from wishbone.core.system.system import System
from wishbone.plugins.cosyvoice2.release import files, settings

TEXTS = {
    "en": "The weather is lovely today, so we went to the park and came back before it rained.",
    "zh": "今天天气真好，我们去公园玩了一整天，[laughter]下雨之前才回来。",
}
SAME = 1e-3
"""Largest difference of samples between a stream and the whole: float32 in another order."""
SEAM = 1.5
"""A step between two samples at a join may be so much larger than the largest inside."""
FILES = (
    files.LANGUAGE_MODEL, files.FLOW, files.VOCODER, files.SPEAKER, files.EARS,
    files.TEXT,
)  # fmt: skip


class Report:
    """Lines as they come, and whether all is well."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def say(self, word: str, name: str, detail: str) -> None:
        """One line."""
        print(f"{word:<6} {name}: {detail}", flush=True)

    def check(self, name: str, look: Callable[[], str]) -> None:
        """Run ``look``, whose answer is the detail and whose exception is the failure."""
        begin = time.perf_counter()
        try:
            detail = look()
        except (WishboneError, AssertionError) as error:
            self.failed.append(name)
            self.say("FAILED", name, str(error))
        else:
            self.say("ok", name, f"{detail} ({time.perf_counter() - begin:.1f} s)")


def main(argv: list[str]) -> int:
    """Look at everything; 0 when all is well, 4 otherwise."""
    options = _parser().parse_intermixed_args(argv)
    report, folder = Report(), options.folder
    report.check("files", lambda: _files(folder))
    report.check("yaml", lambda: _yaml(folder))
    if options.system == "cosyvoice2":
        for what in (files.LANGUAGE_MODEL, files.FLOW, files.VOCODER):
            report.check(what, lambda what=what: _names(folder, what))
    system = _load(options, report)
    if system is not None:
        _Spoken(system, options, report).all()
    verdict = f"{len(report.failed)} failed: {', '.join(report.failed)}" if report.failed else "all"
    print(f"\n{'FAILED' if report.failed else 'ok'}: {verdict}")
    return GATE if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check a CosyVoice2 release on disk.")
    parser.add_argument("folder", type=Path, help="CosyVoice2-0.5B, or a fine-tuning of it")
    parser.add_argument("--system", default="cosyvoice2", help="YAML, for another size")
    parser.add_argument(
        "--prompt", type=Path, help="a recording of someone (default: a bundled one)"
    )
    parser.add_argument("--transcript", help="what it says")
    parser.add_argument("--out", type=Path, help="keep what was spoken in this folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def _files(folder: Path) -> str:
    sizes = []
    for name in FILES:
        path = files.file_of(folder, name)
        inside = path.rglob("*") if path.is_dir() else [path]
        sizes.append(f"{name} {sum(p.stat().st_size for p in inside if p.is_file()) / 1e6:.1f} MB")
    presets = folder / files.PRESETS
    return ", ".join(sizes) + ("" if presets.exists() else f"; no {files.PRESETS}")


def _yaml(folder: Path) -> str:
    said = settings.read(folder)
    facts = [f"{key} {said[key]}" for key in ("sample_rate", "llm_input_size") if key in said]
    return ", ".join(facts) or "none in the folder"


def _names(folder: Path, what: str) -> str:
    from cosyvoice2_release import names

    found = {n: list(t.shape) for n, t in files.load_tensors(folder / what, what).items()}
    public = names(what.removesuffix(".pt"))
    optional = {"llm.model.lm_head.weight"}
    missing, more = public.keys() - found.keys() - optional, found.keys() - public.keys()
    other = [n for n in found.keys() & public.keys() if found[n] != public[n]]
    assert not missing and not more and not other, (
        f"{len(missing)} missing, {len(more)} unknown, {len(other)} of another shape:"
        f" {', '.join(sorted({*missing, *more, *other})[:5])}"
    )
    return f"{len(found)} tensors, every name and shape as published"


def _load(options: argparse.Namespace, report: Report) -> System | None:
    loaded: list[System] = []

    def look() -> str:
        overrides = [f"weights={options.folder}", *options.overrides]
        loaded.append(load(options.system, overrides, options.device))
        count = sum(p.numel() for p in loaded[0].model.parameters())
        assert not loaded[0].notes, "; ".join(loaded[0].notes)
        return f"a language model of {count / 1e6:.1f} M parameters"

    report.check("load", look)
    return loaded[0] if loaded else None


class _Spoken:
    """Everything that is heard."""

    def __init__(self, system: System, options: argparse.Namespace, report: Report) -> None:
        self.system, self.report, self.out = system, report, options.out
        example = bundled() / "ab" / "reference-en" / "000.ogg"
        lines = (bundled() / "ab" / "prompts-en.txt").read_text().splitlines()
        self.recording = read_audio(options.prompt or example)
        self.transcript = options.transcript if options.prompt else lines[0]
        self.voice = Voice()

    def all(self) -> None:
        """One check after another."""
        self.report.check("voice", self._hear)
        for language, text in TEXTS.items():
            self.report.check(f"zero-shot {language}", lambda t=text, n=language: self._say(t, n))
        self.report.check("cross-lingual", self._cross)
        self.report.check("instruct", self._instruct)
        self.report.check("conversion", self._convert)
        self.report.check("stream", self._stream)
        self.report.check("saved voice", self._saved)
        self.report.check("text as it arrives", self._arriving)

    def _keep(self, name: str, samples: Any) -> float:
        """Write a file where asked; how long it sounds."""
        assert len(samples) and torch.isfinite(samples).all(), "no samples, or not all are numbers"
        assert float(samples.abs().max()) > 1e-4, "silence"
        audio = Audio(samples, self.system.decoder.sample_rate)
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            audio.save(self.out / f"{name}.wav", overwrite=True)
        return audio.seconds

    def _hear(self) -> str:
        self.voice = Voice.from_audio(self.system, self.recording, self.transcript or "")
        heard = ", ".join(f"{n} {list(t.shape)}" for n, t in (self.voice.heard or {}).items())
        return f"{len(self.voice.text)} ids, {len(self.voice.speech)} codes; {heard}"

    def _say(self, text: str, name: str, **how: Any) -> str:
        record: list[Any] = []
        begin, first, chunks = time.perf_counter(), 0.0, []
        how = {"voice": self.voice} | how
        for chunk in text_to_speech.stream(self.system, text, seed=0, record=record, **how):
            first = first or (time.perf_counter() - begin if len(chunk) else 0.0)
            chunks.append(chunk)
        taken, seconds = time.perf_counter() - begin, self._keep(name, torch.cat(chunks))
        ends = {utterance.reason for utterance in record}
        return (
            f"{seconds:.2f} s, {taken / seconds:.2f} of real time, first sound after {first:.2f} s,"
            f" ended by {' and '.join(sorted(ends))}"
        )

    def _cross(self) -> str:
        return self._say(TEXTS["zh"], "cross-lingual", voice=Voice.from_audio(
            self.system, self.recording))  # fmt: skip

    def _instruct(self) -> str:
        return self._say(TEXTS["en"], "instruct", instruct="Speak in a very happy voice.")

    def _convert(self) -> str:
        chunks = list(revoice(self.system, self.recording, self.voice))
        seconds = self._keep("conversion", torch.cat(chunks))
        assert abs(seconds - self.recording.seconds) < 0.1, f"{seconds:.2f} s are not as long"
        return f"{seconds:.2f} s of {self.recording.seconds:.2f} s"

    def _stream(self) -> str:
        """Twice the same, codes and samples; the stream against the whole; steps at joins."""
        runs = []
        for _ in range(2):
            record: list[Any] = []
            chunks = list(text_to_speech.stream(self.system, TEXTS["en"], self.voice, 3, record))
            runs.append(([u.codes for u in record], chunks))
        (codes, chunks), (again, samples) = runs
        assert codes == again, "the same seed drew other codes"
        whole = torch.cat(chunks)
        assert torch.equal(whole, torch.cat(samples)), "the same seed made other samples"
        decoder = self.system.decoder.start(seed=3, prompt=self.voice.heard)
        once = torch.tensor(codes[0], device=self.system.model.device)
        offline = torch.cat([decoder.push(once), decoder.finish()]).cpu()
        apart = float((whole[: len(offline)] - offline).abs().max())
        assert apart < SAME, f"stream and whole are {apart:.1e} apart"
        return f"{apart:.1e} from the whole; {_seam(whole, list(_joins(chunks)))}"

    def _saved(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = self.voice.with_state(self.system).save(Path(folder) / "voice.yaml")
            kept = Voice.load(path)
        size = sum(t.numel() * t.element_size() for t in (kept.state or {}).values())
        text = TEXTS["en"][:23]
        one, two = (text_to_speech.say(self.system, text, v).samples for v in (self.voice, kept))
        assert torch.equal(one, two), "it speaks otherwise than the one that was saved"
        return f"the same samples; its state has {size / 1e6:.2f} MB"

    def _arriving(self) -> str:
        words = iter(f"{word} " for word in TEXTS["en"].split())
        record: list[Any] = []
        list(text_to_speech.stream(self.system, words, self.voice, 0, record))
        assert [u.text for u in record] == [TEXTS["en"]], "the text was not spoken whole"
        return f"layout.form is {self.system.config['layout']['form']}"


def _joins(chunks: list[Any]) -> Iterator[int]:
    place = 0
    for chunk in chunks[:-1]:
        place += len(chunk)
        if 0 < place:
            yield place


def _seam(samples: Any, joins: list[int]) -> str:
    steps = (samples[1:] - samples[:-1]).abs()
    places = [join - 1 for join in joins if join <= len(steps)]
    at = max((float(steps[place]) for place in places), default=0.0)
    steps[places] = 0.0
    inside = float(steps.max())
    assert at <= SEAM * inside, f"a step of {at:.4f} at a join, {inside:.4f} at most inside"
    return f"largest step {at:.4f} at {len(joins)} joins, {inside:.4f} inside"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
