"""The simplest parts that keep every contract, to be broken one property at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream, SpeechTokenizer
from wishbone.core.contract.text import TextSpace, Tokenizer


@dataclass
class WidthConfig:
    """One size."""

    width: int = 16
    """Numbers per position."""


class Leaky(Backbone):
    """m_t = sigmoid(decay) m_(t-1) + A x_t;  y_t = x_t + C m_t."""

    Config = WidthConfig
    caps = Caps(constant_state=True, peft_targets=("content",))

    def __init__(self, config: WidthConfig) -> None:
        super().__init__()
        self.width = config.width
        self.content = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width, bias=False)
        self.decay = nn.Parameter(torch.ones(config.width))

    def init_state(self, batch: int, *, device=None, dtype=None) -> State:
        kind = torch.float64 if (dtype or self.decay.dtype) == torch.float64 else torch.float32
        return {"memory": torch.zeros(batch, self.width, dtype=kind, device=device)}

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        memory = self.read(self.init_state(len(x)) if state is None else state)
        decay, content, outputs = self.decay.sigmoid(), self.content(x).to(memory.dtype), []
        for t in range(x.shape[1]):
            after = decay.to(memory.dtype) * memory + content[:, t]
            memory = after if mask is None else torch.where(mask[:, t, None], after, memory)
            outputs.append(self.output(memory.to(x.dtype)))
        return x + torch.stack(outputs, 1) if outputs else x, self.write(memory)

    def read(self, state: State) -> Tensor:
        return state["memory"]

    def write(self, memory: Tensor) -> State:
        return {"memory": memory.clone()}

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        return self.width * (8 if dtype == torch.float64 else 4)

    @classmethod
    def count_parameters(cls, config: WidthConfig) -> int:
        return 2 * config.width**2 + 2 * config.width


@dataclass
class Empty:
    """Nothing to choose."""


class Letters(Tokenizer):
    """a to z, and a space that closes words."""

    Config = Empty

    def __init__(self, config: Empty) -> None:
        self.space = TextSpace(vocabulary=27, word_ends=frozenset({0}))

    def encode(self, text: str) -> list[int]:
        ids = [" abcdefghijklmnopqrstuvwxyz".find(letter) for letter in text.lower().strip()]
        return [row for row in ids if row >= 0]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(" abcdefghijklmnopqrstuvwxyz"[row] for row in ids)


class Hum(Decoder):
    """Every code is a level; a frame glides to the level of the next, which it must see."""

    Config = Empty
    sample_rate, lookahead, hop = 200, 1, 8
    codes = CodeSpace(size=9, rate=25.0)

    def __init__(self, config: Empty) -> None:
        super().__init__()

    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        return HumStream(self, seed)


class HumStream(DecoderStream):
    def __init__(self, decoder: Hum, seed: int) -> None:
        self.decoder, self.before = decoder, None
        self.generator = torch.Generator().manual_seed(seed)

    def push(self, codes: Tensor) -> Tensor:
        parts = [self.glide(level) for level in (codes[:, 0] / 10).tolist()]
        return torch.cat([torch.empty(0), *parts])

    def glide(self, level: float) -> Tensor:
        before, self.before = self.before, level
        if before is None:
            return torch.empty(0)
        noise = 0.01 * torch.rand(self.decoder.hop, generator=self.generator)
        return torch.linspace(before, level, self.decoder.hop) + noise

    def finish(self) -> Tensor:
        return self.glide(self.before)


class Loudness(SpeechTokenizer):
    """A code is how loud 40 ms are."""

    Config = Empty
    sample_rate, codes = 200, CodeSpace(size=9, rate=25.0)

    def __init__(self, config: Empty) -> None:
        super().__init__()

    def encode(self, audio: Tensor) -> Tensor:
        frames = audio[: len(audio) // 8 * 8].view(-1, 8)
        return (frames.abs().mean(1, keepdim=True) * 20).long().clamp(0, 8)
