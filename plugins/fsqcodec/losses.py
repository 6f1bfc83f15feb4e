"""Losses of the codec's recipe: of the code at frame rate, and of the waveform's spectra."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.fsqcodec import corpus
from wishbone.plugins.fsqcodec.decoder import (
    DIGITS,
    PITCH_HIGH,
    PITCH_LOW,
    SAMPLE_RATE,
    SAMPLES,
    FSQCodecDecoder,
)
from wishbone.plugins.fsqcodec.layers import Convolution, LogMel
from wishbone.plugins.fsqcodec.semantic import WIDTH as SEMANTIC_WIDTH
from wishbone.plugins.fsqcodec.speaker import Film
from wishbone.plugins.fsqcodec.tokenizer import FSQCodecTokenizer


class PhonemeReader(nn.Module):
    """Phoneme logits, two per code frame, from a code and its two neighbours."""

    def __init__(self, classes: int):
        super().__init__()
        self.entry = Convolution(DIGITS, 192, 3, lookahead=1)
        self.middle = nn.Conv1d(192, 192, 1)
        self.exit = nn.Conv1d(192, 2 * classes, 1)
        self.classes = classes

    def forward(self, values: Tensor) -> Tensor:
        """values [B, 8, T] -> logits [B, 2 T, classes]."""
        h = F.gelu(self.middle(F.gelu(self.entry(values))))  # [B, 192, T]
        logits = self.exit(h).transpose(1, 2)  # [B, T, 2 classes]
        return logits.unflatten(-1, (2, self.classes)).flatten(1, 2)  # [B, 2 T, classes]


class SemanticReader(nn.Module):
    """A recogniser's features, two per code frame, from a code and two neighbours on each side."""

    def __init__(self):
        super().__init__()
        self.entry = Convolution(DIGITS, 256, 5, lookahead=2)
        self.middle = nn.Conv1d(256, 256, 1)
        self.exit = nn.Conv1d(256, 2 * SEMANTIC_WIDTH, 1)

    def forward(self, values: Tensor) -> Tensor:
        """values [B, 8, T] -> features [B, 2 T, 384]."""
        h = F.gelu(self.middle(F.gelu(self.entry(values))))  # [B, 256, T]
        both = self.exit(h).transpose(1, 2)  # [B, T, 768]
        return both.unflatten(-1, (2, SEMANTIC_WIDTH)).flatten(1, 2)  # [B, 2 T, 384]


class Trainee(nn.Module):
    """Everything that learns: the two parts of the codec and three readers for training only."""

    def __init__(self, speaker_width: int = 0, tokenizer: FSQCodecTokenizer.Config | None = None):
        super().__init__()
        self.tokenizer = FSQCodecTokenizer(tokenizer or FSQCodecTokenizer.Config())
        self.decoder = FSQCodecDecoder(FSQCodecDecoder.Config(speaker_width=speaker_width))
        self.reader = PhonemeReader(len(corpus.CLASSES) + 1)
        self.semantic_reader = SemanticReader()
        self.mel_reader = nn.Linear(self.decoder.config.fine_width, 80)


def rounded(values: Tensor) -> Tensor:
    """Round to {-1, 0, 1} with the gradient passed straight through (arXiv:2309.15505)."""
    return values + (values.round() - values).detach()


def log_pitch(hertz: Tensor) -> Tensor:
    """Hz -> 0..1 between the lowest and the highest pitch, on a logarithmic scale."""
    low, high = math.log(PITCH_LOW), math.log(PITCH_HIGH)
    return (hertz.clamp(PITCH_LOW, PITCH_HIGH).log() - low) / (high - low)


class Spectra(nn.Module):
    """Distance of two waveforms: log-mel and spectral convergence at several window lengths."""

    def __init__(self):
        super().__init__()
        self.mels = nn.ModuleList(
            LogMel(SAMPLE_RATE, window, window // 4, mels, 11_000.0)
            for window, mels in ((256, 40), (512, 64), (1024, 96), (2048, 128))
        )

    def forward(self, synthetic: Tensor, real: Tensor) -> Tensor:
        """synthetic and real [B, S] -> their distance [], a mean over batch, time and windows."""
        total = synthetic.new_zeros(())  # []
        for mel in self.mels:
            usable = synthetic.shape[-1] // mel.hop * mel.hop
            a, b = mel(synthetic[:, :usable]), mel(real[:, :usable])  # [B, mels, T] each
            linear_a, linear_b = a.exp(), b.exp()  # [B, mels, T] each
            convergence = (linear_a - linear_b).norm() / linear_b.norm()  # []
            total = total + F.l1_loss(a, b) + 0.5 * convergence  # []
        return total / len(self.mels)  # []


def film_of(decoder: FSQCodecDecoder, other: Tensor) -> Film | None:
    """The decoder's modulation, from other recordings [B, S] of the same voices."""
    if not decoder.config.speaker_width:
        return None
    return decoder.modulation(decoder.listener(other))


def step_code(
    model: Trainee,
    mel: LogMel,
    batch: corpus.Batch,
    phoneme_weight: float = 0.6,
    semantic_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Losses of the frame's log-mel, pitch, phoneme and, where the batch has them, recogniser's
    features, all reached through the rounded code.

    The decoder has the speaker embedding, so the code need not carry the voice.
    """
    with torch.autocast("cpu", torch.bfloat16):
        values = rounded(model.tokenizer.values(batch.audio))  # [B, 8, F]
        film = film_of(model.decoder, batch.other)
        features = model.decoder.trunk(values, film=film)  # [B, 4 F, C]
        logits = model.reader(values).float()  # [B, 2 F, classes]
        predicted_mel = model.mel_reader(features).float()  # [B, 4 F, 80]
        if batch.semantic is not None:
            semantic = model.semantic_reader(values).float()  # [B, 2 F, 384]
    predicted_pitch = log_pitch(model.decoder.pitch_of(features.float()))  # [B, 4 F]
    weight = 0.05 + batch.voiced.float()  # [B, 4 F]
    pitch_error = (predicted_pitch - log_pitch(batch.pitch)).abs()  # [B, 4 F]
    losses = {
        "mel": F.l1_loss(predicted_mel, mel(batch.audio).transpose(1, 2)),
        "pitch": 8.0 * (pitch_error * weight).sum() / weight.sum(),
        "phoneme": phoneme_weight
        * F.cross_entropy(logits.transpose(1, 2), batch.labels, ignore_index=-1),
    }
    if batch.semantic is not None:
        losses["semantic"] = semantic_weight * F.mse_loss(semantic, batch.semantic)
    return losses


def step_sound(model: Trainee, spectra: Spectra, batch: corpus.Batch) -> dict[str, Tensor]:
    """Spectral distance of the waveform, made with the recorded pitch, pulses and noise together.

    The voicing is learned from the pitch tracker beside it, not through the distance, to which a
    pulse that never varies is nearer on average than noise that is not the recorded noise.
    """
    audio, pitch, voiced = batch.audio, batch.pitch, batch.voiced
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            values = model.tokenizer.values(audio).round()  # [B, 8, F]
        film = film_of(model.decoder, batch.other)
        features = model.decoder.trunk(values, film=film)  # [B, 4 F, C]
    features = features.float()  # [B, 4 F, C]
    predicted_pitch = log_pitch(model.decoder.pitch_of(features))  # [B, 4 F]
    weight = 0.05 + voiced.float()  # [B, 4 F]
    pitch_error = (predicted_pitch - log_pitch(pitch)).abs()  # [B, 4 F]
    noise = torch.randn_like(audio)  # [B, 960 F]
    synthetic = model.decoder.synthesise(features, pitch, None, noise)  # [B, 960 F]
    voicing = model.decoder.voicing_of(features)  # [B, 4 F]
    # the first frames lack the past that a whole utterance would give them
    edge = 6 * SAMPLES
    return {
        "sound": spectra(synthetic[:, edge:], audio[:, edge:]),
        "pitch": 2.0 * (pitch_error * weight).sum() / weight.sum(),
        "voicing": 0.2 * F.binary_cross_entropy(voicing, smooth(voiced)),
    }


def smooth(voiced: Tensor) -> Tensor:
    """voiced [B, n] bool -> [B, n] in 0..1, a frame wider and with ramps of a frame.

    Wider, since trackers miss the edges of voiced stretches.
    """
    wide = F.max_pool1d(voiced.float()[:, None], 3, 1, 1)  # [B, 1, n]
    return F.avg_pool1d(wide, 3, 1, 1, count_include_pad=False)[:, 0]  # [B, n]
