"""Audio to codes: text, pitch and loudness in 12.7 bits every 40 ms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.codec import CodeSpace, SpeechTokenizer
from wishbone.core.contract.part import Layers, OptionalSize, Size
from wishbone.plugins.fsqcodec.decoder import CODE_RATE, DIGITS, SAMPLE_RATE, SAMPLES
from wishbone.plugins.fsqcodec.layers import Block, Convolution, LogMel


class FSQCodecTokenizer(SpeechTokenizer):
    """Log-mel at 50 frames per second, ConvNeXt blocks, eight values rounded to {-1, 0, 1}.

    Finite scalar quantisation (arXiv:2309.15505) with three levels per digit, the code of
    CosyVoice2 (arXiv:2412.10117, section 2.2). A phoneme classifier on the code, used in training
    only, makes it carry the phonemes before the sound.
    """

    @dataclass
    class Config:
        width: Size = 224
        """Channels."""
        fine_blocks: Layers = 3
        """ConvNeXt blocks at 50 frames per second."""
        blocks: Layers = 4
        """ConvNeXt blocks at 25 frames per second."""
        expansion: Layers = 3
        """Inner width of a block over its width."""
        burst_mels: OptionalSize = 0
        """Bands of a second log-mel in windows of 20 ms, 100 a second; 0 for none. The first one's
        windows are twice as long: they resolve harmonics, and smear the bursts of p, t and k."""

    sample_rate = SAMPLE_RATE
    codes = CodeSpace(size=3**DIGITS, rate=CODE_RATE, levels=(3,) * DIGITS)
    level = 0.06
    """Of the bundled voices' recordings joe, most of the training, has 0.055, kathleen 0.031 and
    the others 0.09 to 0.12."""

    def __init__(self, config: FSQCodecTokenizer.Config):
        super().__init__()
        self.config = config
        width, expansion = config.width, config.expansion
        self.mel = LogMel(SAMPLE_RATE, window=1024, hop=SAMPLES // 2, mels=80, top_hz=11_000.0)
        self.entry = Convolution(80, width, 5, lookahead=2)
        if config.burst_mels:
            hop = SAMPLES // 4
            self.burst_mel = LogMel(SAMPLE_RATE, 2 * hop, hop, config.burst_mels, 11_000.0)
            self.bursts = nn.Conv1d(config.burst_mels, width, 6, stride=2, padding=2)
            self.bursts_out = nn.Conv1d(width, width, 1)
        self.fine = nn.ModuleList(Block(width, 7, expansion, 3) for _ in range(config.fine_blocks))
        self.halve = nn.Conv1d(width, width, 2, stride=2)
        self.coarse = nn.ModuleList(Block(width, 7, expansion, 3) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, DIGITS)

    def values(self, audio: Tensor) -> Tensor:
        """audio [B, 960 T] -> values [B, 8, T] in (-1, 1), before rounding."""
        h = self.entry((self.mel(audio) + 3.0) * 0.4)  # [B, C, 2 T]
        if self.config.burst_mels:
            bursts = F.gelu(self.bursts((self.burst_mel(audio) + 3.0) * 0.4))  # [B, C, 2 T]
            h = h + self.bursts_out(bursts)  # [B, C, 2 T]
        for block in self.fine:
            h = block(h)  # [B, C, 2 T]
        h = self.halve(h)  # [B, C, T]
        for block in self.coarse:
            h = block(h)  # [B, C, T]
        digits = self.project(self.norm(h.transpose(1, 2)))  # [B, T, 8]
        return torch.tanh(digits.float()).transpose(1, 2)  # [B, 8, T]

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] -> codes [ceil(S / 960), 1]; the end is padded with silence."""
        return self.encode_batch([audio])[0]

    @torch.inference_mode()
    def encode_batch(self, audios: list[Tensor]) -> list[Tensor]:
        """Encode audios [S] of similar length at once -> codes [T, 1] of each.

        They are the codes of each alone but for the last few frames, whose context is silence
        where a recording alone would end.
        """
        lengths = [-(-len(audio) // SAMPLES) for audio in audios]
        longest = max(lengths, default=0) * SAMPLES
        if not longest:
            return [torch.zeros(0, 1, dtype=torch.long, device=audio.device) for audio in audios]
        padded = [F.pad(audio, (0, longest - len(audio))) for audio in audios]  # [960 T] each
        batch = torch.stack(padded)  # [B, 960 T]
        powers = 3 ** torch.arange(DIGITS, device=batch.device)  # [8]
        digits = self.values(batch).round().long() + 1  # [B, 8, T] in {0, 1, 2}
        codes = (digits * powers[:, None]).sum(dim=1)  # [B, T]
        return [codes[i, :length, None] for i, length in enumerate(lengths)]  # [T, 1] each
