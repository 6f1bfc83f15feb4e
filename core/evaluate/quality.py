"""Two networks that judge a clip without its text: predicted quality, and whose voice it is.

Both run on weights that other packages carry; those packages are not imported, because doing so
costs seconds and pulls in what is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from wishbone.core.evaluate.extras import folder_of, installed, need

RATE = 16_000
"""Samples per second both networks want."""
WINDOW = 9.01
"""Seconds of audio DNSMOS judges at once; shorter clips are repeated until they fill it."""


@dataclass
class DNSMOS:
    """Predicted overall quality, 1 to 5 (Reddy et al. 2021, "DNSMOS P.835", the OVRL score).

    Equals ``speechmos.dnsmos`` (``ovrl_mos``); a test compares the two.
    """

    threads: int = 1
    """CPU threads."""

    @cached_property
    def _session(self) -> Any:
        runtime = need("onnxruntime", "onnxruntime", "predict quality")
        folder = folder_of("speechmos", "speechmos", "predict quality")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # idle threads that spin would take the core from whoever else works
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = folder / "dnsmos_models" / "sig_bak_ovr.onnx"
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(self, audio: np.ndarray) -> float:
        """audio [S] at ``RATE`` -> mean predicted quality of its windows, one second apart."""
        audio = np.clip(np.asarray(audio, np.float32), -1, 1)
        length = int(WINDOW * RATE)
        while len(audio) < length:
            audio = np.concatenate([audio, audio])
        starts = range(0, (int(len(audio) // RATE - WINDOW) + 1) * RATE, RATE)
        windows = [audio[start : start + length] for start in starts]
        raw = [self._session.run(None, {"input_1": w[None]})[0][0][2] for w in windows]
        return float(np.mean([_overall(value) for value in raw]))

    @property
    def signature(self) -> str:
        """What decides the score, in one line."""
        return f"dnsmos|sig_bak_ovr.onnx|ovrl|16k|speechmos:{installed('speechmos')}"


def _overall(raw: float) -> float:
    """The published polynomial from the network's number to the opinion scale."""
    return -0.06766283 * raw**2 + 1.11546468 * raw + 0.04602535


@dataclass
class VoiceEncoder:
    """A voice as 256 numbers (Wan et al. 2018, GE2E), with Resemblyzer's weights.

    Resemblyzer cuts silence with another package before it listens; here windows more than
    ``SILENCE`` decibels below the loudest are cut, so absolute values differ from its own a little.
    """

    SILENCE = 40.0

    @cached_property
    def _net(self) -> Any:
        import torch

        folder = folder_of("resemblyzer", "resemblyzer", "compare voices")
        saved = torch.load(folder / "pretrained.pt", map_location="cpu", weights_only=True)
        weights = saved["model_state"]
        lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
        linear = torch.nn.Linear(256, 256)
        for part, prefix in ((lstm, "lstm."), (linear, "linear.")):
            part.load_state_dict(
                {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            )
        return lstm.eval(), linear.eval()

    def embed(self, audio: np.ndarray) -> np.ndarray:
        """audio [S] at ``RATE`` -> a unit vector [256], the mean over windows of 1.6 s."""
        import torch

        mel = _mel(_without_silence(_level(np.asarray(audio, np.float32)), self.SILENCE))
        # windows of 160 frames every 77, as Resemblyzer's 1.3 windows a second
        starts = list(range(0, max(1, len(mel) - 160 + 78), 77)) or [0]
        padded = np.pad(mel, ((0, max(0, starts[-1] + 160 - len(mel))), (0, 0)))
        if len(starts) > 1 and (len(mel) - starts[-1]) < 0.75 * 160:
            starts = starts[:-1]
        lstm, linear = self._net
        with torch.inference_mode():
            windows = torch.from_numpy(np.stack([padded[s : s + 160] for s in starts]))
            vectors = linear(lstm(windows)[1][0][-1]).relu()
            mean = torch.nn.functional.normalize(vectors, dim=1).mean(0)
        return (mean / mean.norm().clamp_min(1e-8)).numpy()

    def similarity(self, audio: np.ndarray, reference: np.ndarray) -> float:
        """Cosine between the voice of ``audio`` [S] and an embedded ``reference`` [256], 0 to 1."""
        return float(self.embed(audio) @ reference)

    @property
    def signature(self) -> str:
        """What decides the similarity, in one line."""
        return f"similarity|ge2e-resemblyzer:{installed('resemblyzer')}|16k|trim:{self.SILENCE:g}dB"


def _level(audio: np.ndarray) -> np.ndarray:
    """Raise quiet audio to -30 dBFS; loud audio stays."""
    power = float(np.sqrt(np.mean(audio**2))) if len(audio) else 0.0
    return audio * max(1.0, 10 ** (-30 / 20) / power) if power > 0 else audio


def _without_silence(audio: np.ndarray, below: float) -> np.ndarray:
    """Drop 30 ms windows that are ``below`` decibels under the loudest one."""
    size = RATE * 30 // 1000
    frames = audio[: len(audio) - len(audio) % size].reshape(-1, size)
    if not len(frames):
        return audio
    power = 10 * np.log10(np.mean(frames**2, 1) + 1e-12)
    return frames[power > power.max() - below].reshape(-1)


def _mel(audio: np.ndarray) -> np.ndarray:
    """audio [S] -> power in 40 Slaney mel bands [T, 40], windows of 25 ms every 10 ms."""
    size, hop = 400, 160
    audio = np.pad(audio, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    return (power @ _bands(size).T).astype(np.float32)


@lru_cache(maxsize=1)
def _bands(size: int) -> np.ndarray:
    """Triangular filters [40, size/2+1] of equal area on the Slaney mel scale up to 8 kHz."""
    # linear to 1 kHz (200/3 Hz a mel), then 27 steps for each factor of 6.4
    step = np.log(6.4) / 27
    top = 15 + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, 42)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.linspace(0, RATE / 2, size // 2 + 1)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
