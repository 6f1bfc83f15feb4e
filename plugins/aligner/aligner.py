"""The aligner of phonemes: a small classifier of frames, and the best path through its scores.

The classifier learns from audio data with exact phoneme ends, because a teacher made it. It gives
the probability of every phoneme for each 10 ms; of all ways to lay the phonemes of a text over the
recording, with pauses between words allowed, dynamic programming (Viterbi 1967) finds the
likeliest. As in hybrid recognisers, probabilities are divided by how frequent each phoneme is
(Bourlard and Morgan 1994, equation 7.1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.audio import files as sound
from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.teacher import Word

RATE = 24_000
HOP, WINDOW, MELS = 240, 600, 64
"""10 ms steps and windows of 25 ms, usual for recognisers."""
WIDTH, DILATIONS = 128, (1, 2, 4)
"""Channels, and the dilation of each block: a frame sees 160 ms to both sides."""
LEAST = 2
"""Frames a phoneme or a pause lasts at least."""
CROP, BATCH = 300, 16
"""Frames of a training cut, and cuts of a step."""
WARP = 0.15
"""Largest random stretch of the mel axis in training: longer and shorter vocal tracts."""
SILENCE = 0


@dataclass
class Utterance:
    """A recording as the classifier reads it."""

    features: Tensor
    """[64, T]."""
    labels: np.ndarray
    """[T] class of each frame."""


class Aligner(nn.Module):
    """Classes of frames: ``symbols[i]`` has the class i + 1, and 0 is silence."""

    def __init__(self, symbols: Sequence[str]) -> None:
        super().__init__()
        self.symbols = tuple(symbols)
        self.classes = {symbol: number + 1 for number, symbol in enumerate(self.symbols)}
        self.entry = nn.Conv1d(MELS, WIDTH, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, 5, padding=2 * dilation, dilation=dilation)
            for dilation in DILATIONS
        )
        self.exit = nn.Conv1d(WIDTH, len(self.symbols) + 1, 1)
        self.register_buffer("frequency", torch.full((len(self.symbols) + 1,), 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """features [B, 64, T] -> logits [B, classes, T]."""
        hidden = F.gelu(self.entry(features))  # [B, 128, T]
        for block in self.blocks:
            hidden = hidden + F.gelu(block(hidden))  # [B, 128, T]
        return self.exit(hidden)  # [B, classes, T]

    @torch.inference_mode()
    def probabilities(self, features: Tensor) -> Tensor:
        """features [64, T] -> natural logarithm of each class's probability [T, classes]."""
        return self(features[None])[0].T.log_softmax(-1)  # [T, classes]

    def align(self, features: Tensor, words: Sequence[Word]) -> Alignment:
        """Lay the phonemes of ``words`` over a recording's ``features`` [64, T].

        Raises ``DataError`` for a phoneme that is in none of the data the classifier learned from,
        and for a recording shorter than its text can be.
        """
        line, optional = self._line(words)
        logs = self.probabilities(features).numpy()  # [T, classes]
        scores = logs - self.frequency.clamp(min=1e-4).log().numpy()  # [T, classes]
        ends = best_path(scores, line, optional)  # [len(line)]
        starts = np.concatenate([[0], ends[:-1]])  # [len(line)]
        spoken = [logs[a:b, c].sum() for a, b, c in zip(starts, ends, line, strict=True) if c]
        frames = sum(b - a for a, b, c in zip(starts, ends, line, strict=True) if c)
        places = np.flatnonzero(line)
        return Alignment(
            tuple((starts[places] * HOP / RATE).tolist()),
            tuple((ends[places] * HOP / RATE).tolist()),
            float(sum(spoken)) / max(1, int(frames)),
        )

    def _line(self, words: Sequence[Word]) -> tuple[np.ndarray, np.ndarray]:
        """Classes of an utterance in a row, and a mask of the optional ones: the pauses."""
        line = [SILENCE]
        for word in words:
            for phoneme in word.phonemes:
                bare = phoneme.lstrip("ˈˌ")
                if bare not in self.classes:
                    raise DataError(
                        f"unknown phoneme: '{bare}'",
                        " ".join(word.phonemes),
                        "Let the aligner learn from data that has it.",
                    )
                line.append(self.classes[bare])
            line.append(SILENCE)
        classes = np.array(line)
        return classes, classes == SILENCE

    def save(self, path: Path) -> None:
        """Write weights and symbols into one safetensors file."""
        with replacing(path) as temporary:
            notes = {"symbols": json.dumps(self.symbols)}
            save_file(self.state_dict(), temporary, metadata=notes)


@dataclass(frozen=True)
class Alignment:
    """Times of the phonemes of an utterance, in seconds."""

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    score: float
    """Mean log probability of the text's phonemes over all frames of speech."""


def load(path: Path) -> Aligner:
    """Load a file of ``Aligner.save``."""
    with safe_open(path, "pt") as file:
        aligner = Aligner(json.loads(file.metadata()["symbols"]))
        aligner.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return aligner.eval()


def features_of(samples: Tensor, rate: int) -> Tensor:
    """samples [S] -> log-mel [64, T], every band with mean 0 and spread 1 over the recording."""
    audio = sound.resample(sound.Audio(samples.float(), rate), RATE)
    mel = sound.log_mel(audio, MELS, WINDOW, HOP)  # [64, T]
    return (mel - mel.mean(1, keepdim=True)) / mel.std(1, keepdim=True).clamp(min=0.1)  # [64, T]


def best_path(scores: np.ndarray, line: np.ndarray, optional: np.ndarray) -> np.ndarray:
    """scores [T, classes] and a line of classes -> frame [len(line)] at which each of them ends.

    Every element takes ``LEAST`` frames or more, but those that are ``optional`` may take none;
    no two neighbours are. Raises ``DataError`` when there are too few frames. torchaudio's
    ``forced_align`` cannot express this: its blank may stand between any two phonemes, also inside
    a word, and nothing in it lasts two frames at least.
    """
    frames, states = len(scores), len(line) * LEAST
    if frames < LEAST * int((~optional).sum()):
        raise DataError(
            "shorter than its text can be",
            f"{frames} frames",
            "Check that the text is the right one.",
        )
    emitted = scores[:, np.repeat(line, LEAST)]  # [T, states]
    # the first state of an element after an optional one may follow the last of the one before it
    jump = np.zeros(states, bool)  # [states]
    jump[LEAST::LEAST] = optional[:-1]
    jump[: 2 * LEAST] = False
    best = np.full(states, -np.inf)  # [states]
    best[0] = emitted[0, 0]
    if optional[0]:
        best[LEAST] = emitted[0, LEAST]
    back = np.zeros((frames, states), np.int8)  # [T, states]: stay, step or leap
    far = LEAST + 1
    for frame in range(1, frames):
        step = np.concatenate([[-np.inf], best[:-1]])  # [states]
        leap = np.where(jump, np.concatenate([np.full(far, -np.inf), best[:-far]]), -np.inf)
        choices = np.stack([best, step, leap])  # [3, states]
        back[frame] = choices.argmax(0)
        best = choices.max(0) + emitted[frame]  # [states]
    state = states - 1
    if optional[-1] and best[state - LEAST] > best[state]:
        state -= LEAST
    ends = np.full(len(line), -1)
    ends[state // LEAST] = frames
    for frame in range(frames - 1, 0, -1):
        before = state - (0, 1, far)[back[frame, state]]
        if before // LEAST != state // LEAST:
            ends[before // LEAST] = frame
        state = before
    return _filled(ends, state // LEAST)


def _filled(ends: np.ndarray, first: int) -> np.ndarray:
    """Set the ends of elements that the path left out to the end of the one before them."""
    ends[:first] = 0
    for place in range(1, len(ends)):
        if ends[place] < 0:
            ends[place] = ends[place - 1]
    return ends


def labels_of(
    words: Sequence[Word], ends: Sequence[float], phoneme_ends: Sequence[float], aligner: Aligner,
    frames: int,
) -> np.ndarray:  # fmt: skip
    """Classes of the frames of audio data, [T]; a pause lies behind a word with a mark."""
    classes: list[int] = []
    until: list[float] = []
    place = 0
    for word, word_end in zip(words, ends, strict=True):
        for phoneme in word.phonemes:
            classes.append(aligner.classes[phoneme.lstrip("ˈˌ")])
            until.append(phoneme_ends[place])
            place += 1
        if word.separator == " ":
            until[-1] = word_end
        else:
            classes.append(SILENCE)
            until.append(word_end)
    time = np.arange(frames) * HOP / RATE  # [T] seconds
    places = np.searchsorted(np.asarray(until), time).clip(max=len(classes) - 1)  # [T]
    return np.asarray(classes)[places]  # [T]


def labels_along(
    words: Sequence[Word], alignment: Alignment, aligner: Aligner, features: Tensor
) -> np.ndarray:
    """Classes of the frames by an alignment, [T]."""
    labels = np.full(features.shape[1], SILENCE)
    phonemes = (phoneme.lstrip("ˈˌ") for word in words for phoneme in word.phonemes)
    for phoneme, start, end in zip(phonemes, alignment.starts, alignment.ends, strict=True):
        labels[round(start * RATE / HOP) : round(end * RATE / HOP)] = aligner.classes[phoneme]
    return labels


def train(aligner: Aligner, data: Sequence[Utterance], steps: int, seed: int) -> float:
    """Learn from ``data`` for so many steps -> the share of frames that is right at the end."""
    random = np.random.default_rng(seed)
    counts = np.bincount(
        np.concatenate([utterance.labels for utterance in data]), minlength=len(aligner.frequency)
    )
    aligner.frequency.copy_(torch.from_numpy(counts / counts.sum()))
    optimizer = torch.optim.AdamW(aligner.parameters(), 2e-3, betas=(0.9, 0.98))
    aligner.train()
    accuracy = 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps) ** 0.5
        features, labels = _batch(data, random)
        logits = aligner(features)  # [B, classes, T]
        loss = F.cross_entropy(logits, labels, ignore_index=-1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(aligner.parameters(), 1.0)
        optimizer.step()
        hit = (logits.argmax(1) == labels)[labels >= 0].float().mean()
        accuracy += (float(hit) - accuracy) * (0.1 if step else 1.0)
    aligner.eval()
    return accuracy


def _batch(data: Sequence[Utterance], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random cuts [B, 64, T] with their mel axis stretched at random, and their classes [B, T]."""
    features = torch.zeros(BATCH, MELS, CROP)  # [B, 64, T]
    labels = torch.full((BATCH, CROP), -1)  # [B, T], -1 is padding
    for row in range(BATCH):
        utterance = data[random.integers(len(data))]
        length = min(CROP, len(utterance.labels))
        start = int(random.integers(len(utterance.labels) - length + 1))
        features[row, :, :length] = utterance.features[:, start : start + length]
        labels[row, :length] = torch.from_numpy(utterance.labels[start : start + length])
    stretch = torch.from_numpy(random.uniform(1 - WARP, 1 + WARP, (BATCH, 1))).float()  # [B, 1]
    place = (torch.arange(MELS) * stretch).clamp(max=MELS - 1)  # [B, 64]
    low = place.floor().long()  # [B, 64]
    high = (low + 1).clamp(max=MELS - 1)  # [B, 64]
    share = (place - low)[..., None]  # [B, 64, 1]
    rows = torch.arange(BATCH)[:, None]  # [B, 1]
    warped = features[rows, low] * (1 - share) + features[rows, high] * share  # [B, 64, T]
    return warped, labels
