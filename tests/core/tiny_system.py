"""A whole system in a hundred lines: random weights, real interfaces, milliseconds to build."""

import torch
from torch import nn

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.core.contract.backbone import Backbone, Caps
from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream, SpeechTokenizer
from wishbone.core.contract.head import Head
from wishbone.core.contract.text import TextSpace, Tokenizer
from wishbone.core.model.sampling import Sampling
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.system import System

CODES = CodeSpace(size=50, rate=25.0)
WIDTH = 16
HOP = 960


class Letters(Tokenizer):
    """a..z are 1..26; 27 closes a word and 28 a sentence; all else cannot be spoken."""

    space = TextSpace(vocabulary=29, word_ends=frozenset({27, 28}), blank=0)

    def encode(self, text):
        words = ["".join(filter(str.isascii, filter(str.isalpha, w))) for w in text.split()]
        ids = [i for word in words if word for i in [*(ord(c) - 96 for c in word.lower()), 27]]
        return [*ids[:-1], 28] if ids else []

    def decode(self, ids):
        return "".join(chr(96 + i) if i < 27 else " " for i in ids)


class Loudness(SpeechTokenizer):
    """A code is how loud its 40 ms are."""

    sample_rate = 24_000
    codes = CODES

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(49.0))

    def encode(self, audio):
        blocks = audio[: len(audio) // HOP * HOP].view(-1, HOP).abs().amax(1).clamp(max=1)
        return (blocks * self.scale).round().long()[:, None]


class Recurrent(Backbone):
    """One leaky layer whose state is [B, D]."""

    caps = Caps(constant_state=True)

    def __init__(self):
        super().__init__()
        self.width = WIDTH
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.calls = []

    def init_state(self, batch, *, device=None, dtype=None):
        return {"h": torch.zeros(batch, WIDTH, device=device)}

    def forward(self, x, state=None, *, mask=None):
        self.calls.append(x.shape[1])
        h = (self.init_state(len(x)) if state is None else state)["h"]
        rows = []
        for t in range(x.shape[1]):
            after = torch.tanh(self.inner(h) + x[:, t])
            h = after if mask is None else torch.where(mask[:, t, None], after, h)
            rows.append(h)
        return torch.stack(rows, dim=1), {"h": h}

    def state_bytes(self, length, *, dtype=torch.float32):
        return 4 * WIDTH

    @classmethod
    def count_parameters(cls, config):
        return WIDTH * (WIDTH + 1)


class Plain(Head):
    def __init__(self, rows):
        super().__init__()
        self.table = nn.Embedding(rows, WIDTH)
        self.out = nn.Linear(WIDTH, rows)

    def embed(self, ids):
        return self.table(ids[..., 0])

    def forward(self, hidden):
        return self.out(hidden)[..., None, :]


class Hum(Decoder):
    """Each frame is a tone of its code, in whole periods; looks one frame ahead, adds noise."""

    sample_rate = 24_000
    codes = CODES
    lookahead = 1

    def __init__(self):
        super().__init__()
        self.streams = []

    def start(self, *, seed=0, speaker=None, prompt=None):
        self.streams.append(HumStream(seed))
        return self.streams[-1]


class HumStream(DecoderStream):
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.held = torch.zeros(0, dtype=torch.long)
        self.pushed = []

    def push(self, codes):
        self.pushed.append(len(codes))
        held = torch.cat([self.held, codes[:, 0]])
        ready, self.held = held[:-1], held[-1:]
        return self.sound(ready)

    def finish(self):
        return self.sound(self.held)

    def sound(self, codes):
        phase = torch.arange(HOP) / HOP * 2 * torch.pi
        tone = 0.5 * torch.sin(phase * (codes[:, None] + 1))
        noise = torch.rand(len(codes), HOP, generator=self.generator)
        return (tone + 0.01 * noise).flatten()


def tiny_system(seed=0, sampling=None, **layout):
    """``layout`` are fields of ``CosyVoice2.Config``; paced by words unless told otherwise."""
    fields = {"form": "bistream", "pace": "words", "word_base": 3, "word_per_id": 1} | layout
    torch.manual_seed(seed)
    part = CosyVoice2(CosyVoice2.Config(**fields), text=Letters.space, codes=CODES)
    model = SpeechLM(Recurrent(), Plain(CODES.size + part.extra), part)
    for table in model.tables.values():
        nn.init.normal_(table.weight)
    return System(
        Letters(), Loudness(), part, model.eval(), Hum(), sampling or Sampling(),
        {"tokenizer": {"name": "letters"}, "layout": {"name": "cosyvoice2", **fields}},
    )  # fmt: skip


__all__ = ["CODES", "HOP", "System", "tiny_system"]
