"""Sentences that a person can hear in the report: players, spectrograms, words that went wrong."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import soundfile

from wishbone.core.evaluate.experiment.items import Item, Items
from wishbone.core.evaluate.measure.clips import read_audio
from wishbone.core.evaluate.measure.transcript import compared
from wishbone.core.evaluate.report import wording
from wishbone.core.evaluate.result import MetricFacts, Prompt, Result
from wishbone.core.evaluate.statistics.metrics import metric_class, value
from wishbone.core.report import charts

PLAYERS = 12
"""Prompts with players and spectrograms."""
LARGEST = 7_000_000
"""Bytes of audio and pictures before their coding as text adds a third: the file stays below
10 MB."""
SUMMED = ("wer", "dnsmos", "similarity")
"""Metrics with words of their own in the line under a player."""
NARROWEST = 2.0
"""Seconds a spectrogram shows at least."""

Audio = tuple[np.ndarray, int]
"""Samples [S] and their rate."""


@dataclass(frozen=True)
class Take:
    """One arm speaking a sentence, or the reference."""

    name: str
    words: list[tuple[str, str]]
    """The transcript, as ``marked`` returns it."""
    numbers: str
    failure: str
    error: str
    audio: str
    """File of the recording, below the run's folder."""
    sound: str = ""
    """Address of the player's sound; empty without a player."""
    picture: str = ""
    """Address of the spectrogram."""

    @property
    def size(self) -> int:
        """Characters of sound and picture."""
        return len(self.sound) + len(self.picture)


@dataclass(frozen=True)
class Card:
    """A sentence and everybody who speaks it."""

    prompt: Prompt
    why: str
    """Reason why this sentence has players."""
    takes: list[Take]


def speakers(result: Result) -> dict[str, str]:
    """Return for each arm the checkpoint that the report plays: its first."""
    return {arm.key: (arm.checkpoints or [arm.key])[0] for arm in result.arms}


def cards(result: Result, items: Items, out: Path) -> list[Card]:
    """Make sentences with sound, until there are enough or the file would grow too large."""
    players, size = [], 0
    for prompt, why in choose(speakers(result), result.prompts, items):
        card = Card(prompt, why, _takes(prompt, result, items, out))
        size += sum(take.size for take in card.takes)
        # text is four thirds of the bytes that it encodes
        if players and size * 3 / 4 > LARGEST:
            break
        players.append(card)
    return players


def silent_cards(result: Result, items: Items, played: Sequence[Card]) -> list[Card]:
    """Make the sentences that have no players: words and numbers only."""
    keys = {card.prompt.key for card in played}
    return [
        Card(
            prompt,
            "",
            [
                _take(name, items.get(checkpoint, prompt.key, 0), result.metrics)
                for name, checkpoint in speakers(result).items()
            ],
        )
        for prompt in result.prompts
        if prompt.key not in keys
    ]


def choose(
    checkpoints: Mapping[str, str], prompts: Sequence[Prompt], items: Items
) -> list[tuple[Prompt, str]]:
    """Choose prompts to play -> each with the reason: large losses, large gains, a plain sample.

    A third each. Choosing only the best or only the first would show something else than what was
    measured. ``checkpoints`` are those of ``speakers``; the first two arms are compared.
    """
    baseline, arm = list(checkpoints.values())[:2]

    def errors(name: str, key: str) -> float:
        return value(items.get(name, key, 0).row, metric_class("wer").info) or 0.0

    change = {p.key: errors(arm, p.key) - errors(baseline, p.key) for p in prompts}
    ranked = sorted(change, key=lambda key: (change[key], key))
    third = PLAYERS // 3
    gains = [key for key in ranked[:third] if change[key] < 0]
    losses = [key for key in ranked[::-1][:third] if change[key] > 0]
    others = [p.key for p in prompts if p.key not in gains and p.key not in losses]
    count = min(len(others), PLAYERS - len(gains) - len(losses))
    even = [others[int(i)] for i in np.linspace(0, len(others) - 1, count)] if count else []
    reasons = {
        **{key: f"{arm} was understood worse than {baseline} here" for key in losses},
        **{key: f"{arm} was understood better than {baseline} here" for key in gains},
        **dict.fromkeys(even, "one of a plain sample"),
    }
    by_key = {prompt.key: prompt for prompt in prompts}
    return [(by_key[key], reasons[key]) for key in sorted(reasons)]


def _takes(prompt: Prompt, result: Result, items: Items, out: Path) -> list[Take]:
    """Return a player for each arm, and one of the reference where there is a recording."""
    rows = {name: items.get(key, prompt.key, 0) for name, key in speakers(result).items()}
    audio = {
        name: read_audio(out / item.audio)
        for name, item in rows.items()
        if item.audio and (out / item.audio).is_file()
    }
    reference = _reference_audio(prompt.key, result)
    if reference is not None:
        rows["reference"] = items.get("reference", prompt.key, 0)
        audio["reference"] = reference
    longest = max([NARROWEST, *(len(samples) / rate for samples, rate in audio.values())])
    return [
        _take(name, item, result.metrics, audio.get(name), longest) for name, item in rows.items()
    ]


def _take(
    name: str,
    item: Item,
    metrics: Mapping[str, MetricFacts],
    audio: Audio | None = None,
    seconds: float = NARROWEST,
) -> Take:
    sound = picture = ""
    if audio is not None and len(audio[0]):
        sound = charts.data_url("audio/flac", flac(*audio))
        picture = charts.data_url("image/png", charts.spectrogram(*audio, seconds))
    return Take(
        name=name,
        words=marked(item.text, item.transcript),
        numbers=numbers(item, metrics),
        failure=item.failure,
        error=item.error,
        audio=item.audio,
        sound=sound,
        picture=picture,
    )


def numbers(item: Item, metrics: Mapping[str, MetricFacts]) -> str:
    """Write the figures of one recording in a line."""
    row, parts = item.row, []
    if row.get("words"):
        parts.append(_word_errors(row["errors"], row["words"]))
    if row.get("dnsmos") is not None:
        parts.append(f"quality {row['dnsmos']:.2f}")
    if row.get("similarity") is not None:
        parts.append(f"likeness {row['similarity']:.2f}")
    for key, metric in metrics.items():
        if key in SUMMED or metric.source != "audio":
            continue
        number = value(row, metric_class(key).info)
        if number is not None and not item.failure:
            parts.append(f"{metric.title} {wording.cell(number, metric)}")
    if item.seconds:
        parts.append(f"{item.seconds:.1f} s")
    return " · ".join(parts)


def _word_errors(errors: int, words: int) -> str:
    """Say how many words are wrong; added words may be more than the sentence has."""
    if errors > words:
        return f"{errors} errors in a sentence of {words} words"
    return f"{errors} of {words} words wrong"


def _reference_audio(key: str, result: Result) -> Audio | None:
    for ending in (".flac", ".wav", ".ogg", ".opus") if result.reference_folder else ():
        path = Path(result.reference_folder) / f"{key}{ending}"
        if path.is_file():
            return read_audio(path)
    return None


def flac(audio: np.ndarray, rate: int) -> bytes:
    """Return a FLAC file: the report plays the recording sample by sample as it was made."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(audio, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def marked(text: str, transcript: str) -> list[tuple[str, str]]:
    """Compare a transcript with the text -> ("same" | "wrong" | "missing", words), in order."""
    expected, recognized = compared(text, transcript)
    parts: list[tuple[str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, expected, recognized, False).get_opcodes():
        if kind == "equal":
            parts.append(("same", " ".join(recognized[c:d])))
            continue
        if b > a:
            parts.append(("missing", " ".join(expected[a:b])))
        if d > c:
            parts.append(("wrong", " ".join(recognized[c:d])))
    return parts
