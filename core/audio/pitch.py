"""The pitch of a recording, from its autocorrelation (Boersma 1993, the method of Praat).

A tracker that looks for the fundamental itself finds the octave above in a voice whose fundamental
is weak. The autocorrelation shows the period of the waveform, whatever its harmonics weigh.

A recogniser and a predictor of quality hardly mind a voice that is an octave too high, so a copy's
pitch is measured beside them.
"""

from __future__ import annotations

import numpy as np

LOW, HIGH = 60.0, 500.0  # Hz; a window holds three periods of the lowest
CANDIDATES = 8  # peaks of the autocorrelation looked at in each frame
OCTAVE_COST = 0.01  # Praat's numbers, and the next four: of two that fit alike the higher one wins
SILENCE = 0.03  # share of the recording's loudest sample under which nothing is a voice
VOICING = 0.45  # autocorrelation below which a frame is rather noise
JUMP_COST = 0.35  # of an octave from a frame to the next, 10 ms later
SWITCH_COST = 0.14  # of voiced beside unvoiced
HOP_SECONDS = 0.01  # between the places where two recordings are compared
TOGETHER = 2000  # frames worked on at a time, for about 100 MB


def track(audio: np.ndarray, rate: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """audio [S] -> pitch [S / hop] in Hz at the end of each hop, and a mask of the voiced ones.

    Through unvoiced parts the pitch goes in a line; a recording without a voice has 120 Hz.
    """
    frames = len(audio) // hop
    audio = audio.astype(np.float32)
    loudest = float(np.abs(audio).max(initial=1e-9))
    parts = [
        _candidates(audio, range(begin, min(begin + TOGETHER, frames)), rate, hop, loudest)
        for begin in range(0, frames, TOGETHER)
    ]
    if not parts:
        return np.zeros(0, np.float32), np.zeros(0, bool)
    hertz, strength = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))  # [n, C]
    path = hertz[np.arange(frames), _best_path(hertz, strength)]  # [n]
    voiced = path > 0  # [n]
    if not voiced.any():
        return np.full(frames, 120.0, np.float32), voiced
    pitch = np.interp(np.arange(frames), np.flatnonzero(voiced), path[voiced])  # [n]
    return pitch.astype(np.float32), voiced


def semitones_off(copy: np.ndarray, original: np.ndarray, rate: int) -> np.ndarray:
    """Distance [n] of a copy's pitch from the original's, in semitones without a sign.

    Both are [S]; there is a number for every 10 ms in which both are voiced, so n may be 0.
    """
    hop = round(HOP_SECONDS * rate)
    pitch, voiced = track(copy, rate, hop)
    original_pitch, original_voiced = track(original, rate, hop)
    frames = min(len(pitch), len(original_pitch))
    both = voiced[:frames] & original_voiced[:frames]  # [frames]
    return 12.0 * np.abs(np.log2(pitch[:frames][both] / original_pitch[:frames][both]))  # [n]


def _candidates(
    audio: np.ndarray, which: range, rate: int, hop: int, loudest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pitches in Hz [n, 1 + CANDIDATES] and their strengths; the first, of 0 Hz, is "no voice"."""
    half = int(1.5 * rate / LOW)
    window = np.hanning(2 * half).astype(np.float32)
    size = 1 << (4 * half - 1).bit_length()
    padded = np.pad(audio, half)
    ends = (np.array(which) + 1) * hop
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)[ends]
    pieces = pieces - pieces.mean(axis=1, keepdims=True)

    longest, shortest = int(rate / LOW), int(rate / HIGH)

    def autocorrelation(signal: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(signal, size)) ** 2
        lags = np.fft.irfft(power)[..., : longest + 2]
        return lags / np.maximum(lags[..., :1], 1e-12)

    # the window's own decay taken out, a periodic frame has 1 at its period
    r = autocorrelation(pieces * window) / autocorrelation(window)
    before, center, after = r[:, shortest - 1 : -2], r[:, shortest:-1], r[:, shortest + 1 :]
    peak = (center > before) & (center >= after)  # [n, lags]
    best = np.argsort(np.where(peak, -center, np.inf), axis=1)[:, :CANDIDATES]  # [n, CANDIDATES]
    before, center, after, peak = (
        np.take_along_axis(values, best, 1) for values in (before, center, after, peak)
    )  # [n, CANDIDATES]
    # the top of the parabola through three lags
    bend = np.minimum(before - 2 * center + after, -1e-9)
    shift = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)
    pitch = rate / (best + shortest + shift)
    height = np.minimum(center - 0.25 * (before - after) * shift, 1.0)
    likely = np.where(peak, height + OCTAVE_COST * np.log2(pitch / LOW), -np.inf)
    loud = np.abs(pieces).max(axis=1) / loudest
    none = VOICING + np.maximum(0.0, 2.0 - loud * (1.0 + VOICING) / SILENCE)
    hertz = np.concatenate([np.zeros((len(pieces), 1)), pitch], axis=1)
    return hertz, np.concatenate([none[:, None], likely], axis=1)


def _best_path(hertz: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Viterbi: of each frame the candidate [n] on the path of most strength and least change."""
    octaves = np.log2(np.maximum(hertz, 1.0))
    voiced = hertz > 0
    total, origins = strength[0], []
    for at in range(1, len(hertz)):
        jump = JUMP_COST * np.abs(octaves[at - 1][:, None] - octaves[at])
        switch = voiced[at - 1][:, None] != voiced[at]
        score = total[:, None] - np.where(switch, SWITCH_COST, jump)
        origins.append(score.argmax(axis=0))
        total = score.max(axis=0) + strength[at]
    path = [int(total.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return np.array(path[::-1])
