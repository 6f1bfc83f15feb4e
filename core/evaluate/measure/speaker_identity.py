"""Identity of voices: every utterance against reference recordings of all voices.

An utterance counts as right when its speaker embedding is nearer, by cosine, to its own voice's
references than to any other's. The same is asked of every pair of voices, because one voice that is
far from the rest would hide two that cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.data.sources import Recording, parts
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.plan import Prompt, seed_of
from wishbone.core.evaluate.measure.clips import failure, read_audio
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.system.system import System

SEED = 1
RECORDINGS = (".wav", ".flac", ".ogg", ".opus")


@dataclass(frozen=True)
class Shares:
    """Shares of utterances whose nearest voice is the right one."""

    right: dict[str, float]
    """Voice -> share of its utterances, among all voices."""
    heard: dict[str, dict[str, int]]
    """Voice -> nearest voice -> utterances."""
    pairs: dict[tuple[str, str], float]
    """Two voices -> share of the utterances of both, between these two alone."""

    @property
    def worst(self) -> tuple[tuple[str, str], float]:
        """The pair that is told apart least."""
        pair = min(self.pairs, key=self.pairs.__getitem__)
        return pair, self.pairs[pair]


def shares(vectors: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray]) -> Shares:
    """vectors: voice -> [N, E], references: voice -> [E], all of length 1; 0 for a failed one.

    An utterance that has no vector (zeros) is wrong everywhere.
    """
    names = list(references)
    table = np.stack([references[name] for name in names])
    near = {name: vectors[name] @ table.T for name in names}
    bad = {name: ~vectors[name].any(1) for name in names}
    right, confusions = {}, {}
    for place, name in enumerate(names):
        nearest = near[name].argmax(1)
        right[name] = float(np.mean((nearest == place) & ~bad[name]))
        recognised = nearest[~bad[name]]  # [N]
        confusions[name] = {o: int((recognised == n).sum()) for n, o in enumerate(names)}
    pairs = {}
    for a, b in combinations(range(len(names)), 2):
        hits = []
        for right_one, other in ((a, b), (b, a)):
            name = names[right_one]
            hits.append((near[name][:, right_one] > near[name][:, other]) & ~bad[name])
        pairs[names[a], names[b]] = float(np.concatenate(hits).mean())
    return Shares(right, confusions, pairs)


def lines_of(result: Shares, vectors: Mapping[str, np.ndarray]) -> list[str]:
    """The result as lines of text."""
    lines = []
    for name, share in result.right.items():
        others = {o: n for o, n in result.heard[name].items() if n and o != name}
        mistaken = ", ".join(f"{n} as {other}" for other, n in others.items())
        lines.append(
            f"{name:<20}{100 * share:5.1f} % of {len(vectors[name])} nearest to itself"
            + (f"; {mistaken}" if mistaken else "")
        )
    hits = np.concatenate(
        [np.repeat([1.0, 0.0], _split(result.right[name], len(vectors[name]))) for name in vectors]
    )
    all_of = bootstrap(hits)
    lines.append(
        f"right speaker among {len(vectors)}: {100 * all_of.estimate:.1f} %"
        f" (95 %: {100 * all_of.low:.1f} to {min(100.0, 100 * all_of.high):.1f})"
    )
    if result.pairs:
        (a, b), share = result.worst
        lines.append(f"worst of {len(result.pairs)} pairs: {a} and {b}, {100 * share:.1f} %")
    return lines


def _split(share: float, count: int) -> tuple[int, int]:
    hits = round(share * count)
    return hits, count - hits


def recordings(folder: Path, most: int) -> list[Clip]:
    """Recordings of a file or folder of them, or of audio data; at most so many.

    Raises ``UsageError`` when there is none.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("*"))
    files = [file for file in files if file.suffix.lower() in RECORDINGS]
    clips = [Clip(file.stem, "", *read_audio(file)) for file in files[:most]]
    if not clips and (folder.suffix == ".parquet" or any(folder.glob("*.parquet"))):
        clips = _of_audio_data(folder, most)
    if not clips:
        raise UsageError(
            "There is no recording here.",
            str(folder),
            "Name a recording, a folder of them, or audio data.",
        )
    return clips


def _of_audio_data(folder: Path, most: int) -> list[Clip]:
    clips: list[Clip] = []
    for part in parts([folder]):
        for entry in part.recordings():
            if isinstance(entry, Recording):
                clips.append(Clip(entry.id, entry.text, entry.audio.numpy(), entry.sample_rate))
            if len(clips) == most:
                return clips
    return clips


def embed_all(
    panel: Panel, references: Mapping[str, Sequence[Clip]], spoken: Mapping[str, Sequence[Clip]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Speaker embeddings for ``shares``: voice -> [N, E] of what it spoke, voice -> [E] of it."""
    centres = {name: panel.first.embed(list(clips)) for name, clips in references.items()}
    size = len(next(iter(centres.values())))
    vectors = {
        name: np.stack([_vector(panel, clip, size) for clip in clips])
        for name, clips in spoken.items()
    }
    return vectors, centres


def _vector(panel: Panel, clip: Clip, size: int) -> np.ndarray:
    """The speaker embedding [size]; zeros for a clip in which no voice can be recognised."""
    if failure(clip.audio, clip.rate, clip.text or "x" * 1000):
        return np.zeros(size, np.float32)
    return panel.first.embed([clip])


def speak_with_all(
    system: System, voices: Sequence[str], lines: Sequence[str], out: Path | None = None
) -> dict[str, list[Clip]]:
    """Speak every line with every voice -> voice -> recordings, also written to ``out``/voice."""
    rate, spoken = system.decoder.sample_rate, {}
    for name in voices:
        spoken[name] = []
        for number, line in enumerate(lines):
            prompt = Prompt(f"{number:03d}", line)
            _, audio = generate.speak(system, line, seed_of(SEED, prompt, 0), name)
            spoken[name].append(Clip(prompt.key, line, audio, rate))
            if out:
                generate.write(out / name / f"{prompt.key}.flac", audio, rate)
    return spoken
