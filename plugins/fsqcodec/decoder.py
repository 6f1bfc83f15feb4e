"""Codes to audio: a causal convolutional trunk that drives a source-filter synthesiser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.contract.part import Layers, OptionalSize, Size
from wishbone.plugins.fsqcodec import source
from wishbone.plugins.fsqcodec.layers import Block, Cache, Convolution, Upsample
from wishbone.plugins.fsqcodec.speaker import Film, Modulation, SpeakerEncoder

SAMPLE_RATE = 24_000  # CosyVoice2's rate
CODE_RATE = 25  # code frames per second, as CosyVoice2's speech tokenizer
DIGITS = 8  # 3^8 = 6561 codes, arXiv:2412.10117
HOP = 240  # samples between synthesis frames: 10 ms
WINDOW = 960  # samples, 40 ms: two periods of the lowest pitch a voice reaches
SAMPLES = SAMPLE_RATE // CODE_RATE  # samples per code frame
FRAMES = SAMPLES // HOP  # synthesis frames per code frame
AHEAD = 2  # code frames the first convolution sees ahead; overlapping windows need most of another
PITCH_LOW, PITCH_HIGH = 50.0, 500.0  # Hz; log pitch is squeezed between them


def digits(codes: Tensor) -> Tensor:
    """codes [...] -> digits [..., 8] in {-1, 0, 1}, least significant first."""
    powers = 3 ** torch.arange(DIGITS, device=codes.device)  # [8]
    quotients = torch.div(codes[..., None], powers, rounding_mode="floor")  # [..., 8]
    return (quotients % 3 - 1).float()  # [..., 8]


class FSQCodecDecoder(Decoder):
    """A convolutional trunk and a source-filter synthesiser, causal but for two code frames."""

    @dataclass
    class Config:
        width: Size = 256
        """Channels at 25 and 50 frames per second."""
        fine_width: Size = 192
        """Channels at 100 frames per second."""
        blocks: Layers = 4
        """ConvNeXt blocks at 25 frames per second."""
        fine_blocks: Layers = 2
        """ConvNeXt blocks at 50 and again at 100 frames per second."""
        expansion: Layers = 3
        """Inner width of a block over its width."""
        envelope_points: Size = 160
        """Points of each spectral envelope, spaced as mels; between them it is interpolated."""
        speaker_width: OptionalSize = 0
        """Length of the speaker embedding; 0 for a decoder of one voice."""

    sample_rate = SAMPLE_RATE
    codes = CodeSpace(size=3**DIGITS, rate=CODE_RATE, levels=(3,) * DIGITS)
    lookahead = 3

    def __init__(self, config: FSQCodecDecoder.Config):
        super().__init__()
        self.config = config
        width, fine, expansion = config.width, config.fine_width, config.expansion
        self.entry = Convolution(DIGITS, width, 5, lookahead=AHEAD)
        self.coarse = nn.ModuleList(Block(width, 7, expansion, 0) for _ in range(config.blocks))
        self.rise1 = Upsample(width, width, 2)
        self.middle = nn.ModuleList(
            Block(width, 7, expansion, 0) for _ in range(config.fine_blocks)
        )
        self.rise2 = Upsample(width, fine, 2)
        self.fine = nn.ModuleList(Block(fine, 7, expansion, 0) for _ in range(config.fine_blocks))
        self.norm = nn.LayerNorm(fine)
        points = config.envelope_points
        self.pitch = nn.Linear(fine, 1)
        self.voicing = nn.Linear(fine, 1)
        # log magnitude for pulses, for noise, and the pulses' phase beyond the minimum
        self.envelopes = nn.Linear(fine, 3 * points)
        nn.init.normal_(self.envelopes.weight, std=1e-2)
        nn.init.constant_(self.envelopes.bias[: 2 * points], -3.0)
        nn.init.zeros_(self.envelopes.bias[2 * points :])
        if config.speaker_width:
            self.listener = SpeakerEncoder(SAMPLE_RATE, SAMPLES // 2, config.speaker_width)
            widths = [width] * (config.blocks + config.fine_blocks) + [fine] * config.fine_blocks
            self.modulation = Modulation(config.speaker_width, widths)
            # the speaker embedding where no recording is given
            self.register_buffer("voice", torch.zeros(config.speaker_width))
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("noise_window", _noise_window(), persistent=False)
        self.register_buffer("spread", _spread(points), persistent=False)
        hertz = torch.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
        self.register_buffer("audible", (hertz <= TOP_HZ).float(), persistent=False)

    def trunk(self, values: Tensor, cache: Cache | None = None, film: Film | None = None) -> Tensor:
        """Digits [B, 8, T] -> features [B, 4 T, C]; with a cache, those that are final now.

        ``film`` is the result of ``modulation`` for a speaker, for a decoder of many voices.
        """
        modulations = iter(film or ())

        def through(blocks: nn.ModuleList, h: Tensor) -> Tensor:
            for block in blocks:
                h = block(h, cache)  # [B, C, T]
                if film:
                    gain, shift = next(modulations)  # [B, C, 1] each
                    h = h * gain + shift  # [B, C, T]
            return h

        h = through(self.coarse, self.entry(values, cache))  # [B, C, T]
        h = through(self.middle, self.rise1(h))  # [B, C, 2 T]
        h = through(self.fine, self.rise2(h))  # [B, C', 4 T]
        return self.norm(h.transpose(1, 2))  # [B, 4 T, C']

    def pitch_of(self, features: Tensor) -> Tensor:
        """features [B, n, C] -> pitch [B, n] in Hz at the end of each frame."""
        low, high = math.log(PITCH_LOW), math.log(PITCH_HIGH)
        share = torch.sigmoid(self.pitch(features).squeeze(-1).float())  # [B, n]
        return (low + (high - low) * share).exp()  # [B, n]

    def voicing_of(self, features: Tensor) -> Tensor:
        """features [B, n, C] -> probability [B, n] that each frame is voiced."""
        return torch.sigmoid(self.voicing(features).squeeze(-1).float())  # [B, n]

    def pulse_share(self, features: Tensor) -> Tensor:
        """features [B, n, C] -> share of pulses [B, n], 0 noise to 1 pulses.

        Almost a switch, in the middle at a probability of 38 %: noise in a voiced frame sounds like
        hoarseness, a pulse in an unvoiced one hardly at all.
        """
        return torch.sigmoid(8.0 * self.voicing(features).squeeze(-1).float() + 4.0)  # [B, n]

    def spectra(
        self, features: Tensor, voicing: Tensor | None, pulse: Tensor, noise: Tensor
    ) -> Tensor:
        """features [B, n, C], voicing [B, n], source spectra [B, n, F] -> spectra [B, n, F].

        Without ``voicing`` pulses and noise sound together, each through its own envelope: the
        form used in training. With it they take turns, each with the energy of both; noise then
        comes in shorter frames, so that bursts stay short.
        """
        points = self.config.envelope_points
        parts = self.envelopes(features).float().unflatten(-1, (3, points))  # [B, n, 3, points]
        voiced, breath, deviation = (parts @ self.spread).unbind(-2)  # [B, n, F] each
        voiced, breath = voiced.clamp(min=-14.0, max=6.0), breath.clamp(min=-14.0, max=6.0)
        phase = source.minimum_phase(voiced) + deviation  # [B, n, F]
        pulse, noise = pulse * self.audible, noise * self.audible  # [B, n, F] each
        if voicing is None:
            return source.filtered(pulse, voiced, phase) + noise * breath.exp()  # [B, n, F]
        both = torch.logaddexp(2 * voiced, 2 * breath) / 2  # [B, n, F]
        share = voicing[..., None]  # [B, n, 1]
        voice = source.filtered(pulse, both, phase) * share.sqrt()  # [B, n, F]
        return voice + noise * (both.exp() * (1.0 - share).sqrt())  # [B, n, F]

    def synthesise(
        self,
        features: Tensor,
        pitch: Tensor,
        voicing: Tensor | None,
        noise: Tensor,
        phase: Tensor | None = None,
    ) -> Tensor:
        """Audio [B, n HOP], all at once.

        features [B, n, C], pitch [B, n] Hz, voicing [B, n] as in ``spectra``, noise [B, n HOP].
        ``phase`` [B] float64, in turns, is that at which each pulse train begins; 0 by default.
        """
        bounds = torch.cat([pitch[:, :1], pitch], dim=1)  # [B, n + 1]
        if phase is None:
            phase = torch.zeros(len(pitch), dtype=torch.float64, device=pitch.device)  # [B]
        pulse, _ = source.pulses(bounds, phase, HOP, SAMPLE_RATE)  # [B, n HOP]
        pad = (WINDOW - HOP) // 2
        of_noise = self.window if voicing is None else self.noise_window  # [WINDOW]
        pulse = source.frames_of(F.pad(pulse, (pad, pad)), self.window, HOP)  # [B, n, F]
        noise = source.frames_of(F.pad(noise, (pad, pad)), of_noise, HOP)  # [B, n, F]
        spectra = self.spectra(features, voicing, pulse, noise)  # [B, n, F]
        audio = source.overlap_add(spectra, self.window, HOP)  # [B, n HOP + 2 pad]
        return audio[:, pad : audio.shape[1] - pad] / WINDOW_SUM  # [B, n HOP]

    @torch.inference_mode()
    def decode(self, codes: Tensor, *, seed: int = 0, prompt: State | None = None) -> Tensor:
        """codes [T, 1] -> samples [960 T]: the whole utterance in one stream."""
        stream = self.start(seed=seed, prompt=prompt)
        return torch.cat([stream.push(codes), stream.finish()])  # [960 T]

    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> FSQCodecStream:
        """A stream in the voice of a ``prompt`` from ``hear``, or in the decoder's own voice.

        Raises ``CheckpointError`` for an embedding of another length.
        """
        if not self.config.speaker_width:
            return FSQCodecStream(self, seed, None)
        voice = (prompt or {}).get("speaker", self.voice)  # [E]
        if voice.shape != self.voice.shape:
            raise CheckpointError(
                f"The voice has a speaker embedding {list(voice.shape)}; this decoder takes"
                f" {list(self.voice.shape)}.",
                "the voice's tensor 'heard.speaker'",
                "Make the voice again from its recording with this system.",
            )
        with torch.inference_mode():
            return FSQCodecStream(self, seed, self.modulation(voice[None]))

    @torch.inference_mode()
    def hear(self, audio: Tensor, codes: Tensor) -> State:
        """audio [S], codes not needed -> "speaker" [E]; {} from a decoder of one voice.

        Raises ``UsageError`` for a recording too short to recognise a voice.
        """
        if not self.config.speaker_width:
            return {}
        if len(audio) < SHORTEST * SAMPLE_RATE:
            raise UsageError(
                f"The recording is {len(audio) / SAMPLE_RATE:.2f} seconds long.",
                "the voice's recording",
                f"Give {SHORTEST} seconds or more of one person speaking.",
            )
        frames = audio[: len(audio) // (SAMPLES // 2) * (SAMPLES // 2)]  # [S'], whole mel frames
        return {"speaker": self.listener(frames[None])[0]}


SHORTEST = 0.5  # seconds: a few syllables, without which a voice cannot be recognised
TOP_HZ = 11_000.0  # nothing above: the recipe's loss ends there, so higher sound would be chance
NOISE_WINDOW = 480  # samples, 20 ms: a pulse train needs two periods in a frame, noise does not
WINDOW_SUM = 1.5  # sum of squared Hann windows at four frames per window


def _noise_window() -> Tensor:
    """A short Hann window in the middle of a frame, divided by the frame's own window, [WINDOW].

    Frames of noise and of pulses then add up to the same ``WINDOW_SUM``.
    """
    edge = (WINDOW - NOISE_WINDOW) // 2
    short = F.pad(torch.hann_window(NOISE_WINDOW), (edge, edge))  # [WINDOW]
    added = NOISE_WINDOW / 2 / HOP
    return WINDOW_SUM / added * short / torch.hann_window(WINDOW).clamp(min=1e-3)  # [WINDOW]


def _spread(points: int) -> Tensor:
    """Linear interpolation from points spaced as mels to the bins of a frame, [points, F]."""
    bins = WINDOW // 2 + 1
    top = 2595.0 * math.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    hertz = torch.linspace(0.0, SAMPLE_RATE / 2, bins)  # [F]
    place = 2595.0 * torch.log10(1.0 + hertz / 700.0) / top * (points - 1)  # [F]
    distance = (place[None, :] - torch.arange(points)[:, None]).abs()  # [points, F]
    return (1.0 - distance).clamp(min=0.0)  # [points, F]


class FSQCodecStream(DecoderStream):
    """One utterance being decoded. Nothing is ever computed twice.

    A frame's window reaches ``pad`` samples into the frames on either side, so spectra follow the
    features by two frames and samples follow the spectra by another ``pad``.
    """

    def __init__(self, decoder: FSQCodecDecoder, seed: int, film: Film | None):
        self.decoder, self.film = decoder, film
        self.generator = torch.Generator().manual_seed(seed)
        self.cache: Cache = {}
        self.features: Tensor | None = None  # [1, n, C] still without their spectra
        self.pitch: Tensor | None = None  # [1, 1] Hz at the end of the last frame
        self.device = device = decoder.window.device
        self.phase = torch.zeros(1, dtype=torch.float64, device=device)  # [1] turns
        pad = (WINDOW - HOP) // 2
        # pulse and noise from the next frame's window on
        self.sources = torch.zeros(2, pad, device=device)  # [2, S]
        # overlap-added samples that later frames still add to
        self.tail = torch.zeros(0, device=device)  # [S]
        self.skip = pad  # samples before the utterance begins
        self.finished = False

    def push(self, codes: Tensor) -> Tensor:
        """codes [T, 1] -> the samples [S] that are final now."""
        if self.finished:
            raise RuntimeError("this stream is finished; start another one")
        if codes.shape[0] == 0:
            return torch.zeros(0, device=self.device)  # [0]
        with torch.inference_mode():
            values = digits(codes[:, 0]).T[None]  # [1, 8, T]
            return self._advance(self.decoder.trunk(values, self.cache, self.film), last=False)

    def finish(self) -> Tensor:
        """The remaining samples [S]."""
        if self.finished:
            raise RuntimeError("this stream is finished; start another one")
        self.finished = True
        with torch.inference_mode():
            ahead = torch.zeros(1, DIGITS, AHEAD, device=self.device)  # [1, 8, AHEAD]
            return self._advance(self.decoder.trunk(ahead, self.cache, self.film), last=True)

    def _advance(self, features: Tensor, last: bool) -> Tensor:
        """features [1, n, C] after the earlier ones -> the samples [S] that are final with them."""
        self._extend_sources(features)
        if self.features is not None:
            features = torch.cat([self.features, features], dim=1)  # [1, n, C]
        if last:
            self.sources = F.pad(self.sources, (0, (WINDOW - HOP) // 2))  # [2, S]
        ready = min(features.shape[1], max(0, (self.sources.shape[1] - WINDOW) // HOP + 1))
        self.features = features[:, ready:]  # [1, n - ready, C]
        if ready == 0:
            return torch.zeros(0, device=self.device)  # [0]
        reach = (ready - 1) * HOP + WINDOW
        windows = torch.stack([self.decoder.window, self.decoder.noise_window])  # [2, WINDOW]
        sources = self.sources[:, :reach]  # [2, reach]
        pulse, noise = source.frames_of(sources, windows[:, None], HOP)  # [ready, F] each
        self.sources = self.sources[:, ready * HOP :]  # [2, S]
        features = features[:, :ready]  # [1, ready, C]
        voicing = self.decoder.pulse_share(features)  # [1, ready]
        spectra = self.decoder.spectra(features, voicing, pulse[None], noise[None])  # [1, ready, F]
        added = source.overlap_add(spectra, self.decoder.window, HOP)[0]  # [reach]
        added[: len(self.tail)] += self.tail
        final = len(added) - (WINDOW - HOP)
        self.tail = added[final:]  # [WINDOW - HOP]
        samples = added[: final + (WINDOW - HOP) // 2] if last else added[:final]  # [S]
        skipped = min(self.skip, len(samples))
        self.skip -= skipped
        return samples[skipped:] / WINDOW_SUM  # [S - skipped]

    def _extend_sources(self, features: Tensor) -> None:
        """Append the pulses and the noise of the frames of ``features`` [1, n, C]."""
        if features.shape[1] == 0:
            return
        # a grid of 1/32 Hz: float error in the trunk would otherwise add up in the pulses' phase
        pitch = (self.decoder.pitch_of(features) * 32).round() / 32  # [1, n]
        before = pitch[:, :1] if self.pitch is None else self.pitch  # [1, 1]
        bounds = torch.cat([before, pitch], dim=1)  # [1, n + 1]
        pulse, self.phase = source.pulses(bounds, self.phase, HOP, SAMPLE_RATE)  # [1, n HOP], [1]
        self.pitch = pitch[:, -1:]  # [1, 1]
        # one draw per frame: the same noise however the codes are grouped into pushes, and drawn
        # on the CPU, so that a seed sounds the same on every device
        noise = [torch.randn(HOP, generator=self.generator) for _ in range(features.shape[1])]
        both = torch.stack([pulse[0], torch.cat(noise).to(self.device)])  # [2, n HOP]
        self.sources = torch.cat([self.sources, both], dim=1)  # [2, S]
