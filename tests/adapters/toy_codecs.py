"""Toy systems with global codes and with several codebooks that learn a text by heart."""

from random import Random

import torch
from torch import nn

from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream, SpeechTokenizer
from wishbone.core.contract.layout import Sample
from wishbone.core.contract.text import TextSpace, Tokenizer
from wishbone.core.model.sampling import Sampling
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.system import System
from wishbone.core.train.batches import collate
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig

HOP = 80
RATE = 25.0


class Letters(Tokenizer):
    """a..z are 1..26; 27 closes a sentence; all else cannot be spoken."""

    space = TextSpace(vocabulary=28)

    def encode(self, text):
        ids = [ord(letter) - 96 for letter in text.lower() if "a" <= letter <= "z"]
        return [*ids, 27] if ids else []

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


class Chord(Decoder):
    """A frame is the mean of one tone per codebook; global codes say how loud it is."""

    sample_rate, lookahead = int(HOP * RATE), 0

    def __init__(self, codes):
        super().__init__()
        self.codes, self.told = codes, []

    def start(self, *, seed=0, speaker=None, prompt=None):
        if self.codes.global_count:
            assert speaker is not None and speaker.dtype == torch.int64
            assert speaker.shape == (self.codes.global_count,)
        self.told.append(None if speaker is None else tuple(speaker.tolist()))
        loud = 1.0 if speaker is None else (1 + speaker.float().mean().item()) / 100
        return ChordStream(self.codes, loud)


class ChordStream(DecoderStream):
    def __init__(self, codes, loud):
        self.codes, self.loud = codes, loud

    def push(self, codes):
        assert codes.shape[1:] == (self.codes.codebooks,)
        assert 0 <= codes.min() and codes.max() < self.codes.size
        phase = torch.arange(HOP) / HOP * 2 * torch.pi
        return (self.loud * torch.sin((codes[..., None] + 1) * phase).mean(1)).flatten()

    def finish(self):
        return torch.zeros(0)


class Ears(SpeechTokenizer):
    """Hears only how long a recording is; every recording has the same voice."""

    def __init__(self, codes):
        super().__init__()
        self.codes, self.sample_rate = codes, int(HOP * RATE)
        self.anything = nn.Parameter(torch.zeros(1))

    def encode(self, audio):
        count = len(audio) // HOP
        return torch.arange(count)[:, None].expand(-1, self.codes.codebooks) % self.codes.size

    def encode_global(self, audio):
        return torch.arange(self.codes.global_count)


def utterance(text, codes, instruct=(), per_id=2):
    """What is said for a text: always the same, so that it can be learnt."""
    random, ids = Random(text), Letters().encode(text)
    frames = [
        tuple(random.randrange(codes.size) for _ in range(codes.codebooks))
        for _ in range(per_id * len(ids))
    ]
    whole = [random.randrange(codes.global_size) for _ in range(codes.global_count)]
    return Sample(ids, frames, global_codes=whole, instruct=instruct)


def toy_system(layout, head, codes, width=48):
    """A whole system around ``layout``; greedy, so that what was learnt is what is said."""
    torch.manual_seed(0)
    backbone = Transformer(
        TransformerConfig(width=width, layers=1, heads=3, kv_heads=1, ffn_width=96)
    )
    model = SpeechLM(backbone, head(width), layout)
    sampling = Sampling(greedy=True)
    parts = (Letters(), Ears(codes), layout, model, Chord(codes), sampling)
    return System(*parts, {"tokenizer": {"name": "toy"}, "layout": {"name": "toy"}})


def learn(system, samples, steps, rate=1e-2):
    """Train on ``samples`` until they are known by heart; the losses in nats per target."""
    optimizer = torch.optim.AdamW(system.model.parameters(), lr=rate, weight_decay=0)
    random, losses = Random(0), []
    system.model.train()
    for _ in range(steps):
        laid = [system.layout.train(sample, random) for sample in samples]
        batch = collate(laid, range(len(laid)))
        loss, count = system.model.loss(batch.table, batch.ids, batch.targets, batch.mask)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss / count).item())
    system.model.eval()
    return losses


__all__ = ["HOP", "RATE", "CodeSpace", "Letters", "learn", "toy_system", "utterance"]
