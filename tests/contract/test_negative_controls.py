"""Every check can fail: a part broken in one way, and what notices it. Backbones: see beside."""

from dataclasses import replace

import pytest
import torch
from controls import failed
from plain_parts import Empty, Hum, HumStream, Letters, Loudness
from torch import nn

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.core.contract.layout import Positions
from wishbone.core.contract.text import TextSpace
from wishbone.core.testing import check_class, suite
from wishbone.plugins.heads.head import FSQHead, LinearHead


class DropsDimension(LinearHead):
    def forward(self, hidden):
        logits = super().forward(hidden)
        return logits.squeeze(-2)


class ExtraIdsAlike(LinearHead):
    def embed(self, ids):
        return super().embed(ids.clamp(max=self.size - 3))


class BooksAlike(LinearHead):
    def embed(self, ids):
        return self.table(ids).sum(-2)


class TableIsDetached(LinearHead):
    def embed(self, ids):
        return super().embed(ids).detach()


class StartsDead(LinearHead):
    """Zero in both directions: no gradient will ever come."""

    def __init__(self, config, *, width, codes, extra):
        super().__init__(config, width=width, codes=codes, extra=extra)
        nn.init.zeros_(self.table.weight)
        nn.init.zeros_(self.output.weight)


class AsksOnce(LinearHead):
    def sample(self, hidden, pick):
        first = pick(self(hidden)[0], 0)
        return tuple(first + q for q in range(self.codebooks))


class PredictsAnother(LinearHead):
    """Training sees the logits of the next code's neighbour."""

    def predict(self, hidden, answers):
        return super().predict(hidden, answers).roll(1, -1)


class LosesBuffer(FSQHead):
    """A table computed while building, which a meta build leaves empty."""

    def __init__(self, config, *, width, codes, extra):
        super().__init__(config, width=width, codes=codes, extra=extra)
        self.register_buffer("scale", torch.full((width,), 2.0), persistent=False)

    def embed(self, ids):
        return super().embed(ids) * self.scale


HEADS = [
    (DropsDimension, "shapes", {"learns", "predicts", "samples"}),
    (ExtraIdsAlike, "distinct", {"gradient", "learns"}),
    (BooksAlike, "distinct", {"gradient"}),
    (TableIsDetached, "gradient", {"learns"}),
    (StartsDead, "learns", set()),
    (AsksOnce, "samples", {"predicts"}),
    (PredictsAnother, "predicts", set()),
    (LosesBuffer, "meta", set()),
]


class TableTooSmall(CosyVoice2):
    def __init__(self, config, *, text, codes):
        super().__init__(config, text=text, codes=codes)
        self.tables = {**self.tables, "text": 12}


class TrainsWithoutTask(CosyVoice2):
    """Training leaves out the mark between text and speech that speaking feeds."""

    def train(self, sample, random):
        laid = super().train(sample, random)
        keep = torch.ones(len(laid.table), dtype=torch.bool)
        keep[((laid.table == 2) & (laid.ids[:, 0] == 1)).nonzero()[0]] = False
        before = keep.roll(-1)
        targets = laid.targets.clone()
        targets[~before] = targets[~keep]
        return Positions(laid.table[keep], laid.ids[keep], targets[keep])


class TrainsShifted(CosyVoice2):
    """Targets one position late: the oldest mistake there is."""

    def train(self, sample, random):
        laid = super().train(sample, random)
        targets = laid.targets.roll(1, 0)
        return Positions(laid.table, laid.ids, targets)


class DropsPrompt(CosyVoice2):
    def start(self, prompt):
        return super().start(replace(prompt, speech=(), word_ends=()))


LAYOUTS = [
    (TableTooSmall, None, "wellformed", set()),
    (TrainsWithoutTask, None, "consistent", {"wellformed"}),
    (TrainsShifted, None, "consistent", {"wellformed"}),
    (CosyVoice2, CosyVoice2.Config(form="bistream", bistream_probability=0.0), "consistent", set()),
    (CosyVoice2, CosyVoice2.Config(max_code_ratio=1e9), "ends", {"prompts"}),
    (DropsPrompt, None, "prompts", set()),
]


class NumbersAsSeen(Letters):
    """Ids in the order of first sight."""

    def __init__(self, config: Empty) -> None:
        super().__init__(config)
        self.seen = {" ": 0}

    def encode(self, text):
        letters = [
            letter for letter in text.lower().strip() if "a" <= letter <= "z" or letter == " "
        ]
        return [self.seen.setdefault(letter, len(self.seen)) for letter in letters]


class OneTooMany(Letters):
    def encode(self, text):
        return [row + 1 for row in super().encode(text)]

    def decode(self, ids):
        return super().decode([row - 1 for row in ids])


class KnowsItsAlphabetOnly(Letters):
    def encode(self, text):
        return [" abcdefghijklmnopqrstuvwxyz".index(letter) for letter in text.lower().strip()]


class ClosesNothing(Letters):
    def __init__(self, config: Empty) -> None:
        self.space = TextSpace(vocabulary=27, word_ends=frozenset({26}))


TOKENIZERS = [
    (NumbersAsSeen, "deterministic", set()),
    (OneTooMany, "ids_in_range", {"words"}),
    (KnowsItsAlphabetOnly, "odd_text", {"deterministic", "ids_in_range"}),
    (ClosesNothing, "words", set()),
]


def humming(**changes):
    stream = type("Stream", (HumStream,), changes)
    start = {"start": lambda self, *, seed=0, speaker=None, prompt=None: stream(self, seed)}
    return type("Broken", (Hum,), start)


def _click(self, codes):
    samples = HumStream.push(self, codes)
    samples[:1] = 0
    return samples


def _withhold(self, codes):
    self.held = torch.cat([getattr(self, "held", torch.empty(0)), HumStream.push(self, codes)])
    return torch.empty(0)


def _release(self):
    return torch.cat([self.held, HumStream.finish(self)])


def _global_noise(self, level):
    self.generator = None
    return HumStream.glide(self, level)


class SharesStream(Hum):
    """The level before is kept on the decoder, where every stream finds it."""

    def start(self, *, seed=0, speaker=None, prompt=None):
        self.level = None
        before = property(lambda s: s.decoder.level, lambda s, v: setattr(s.decoder, "level", v))
        return type("Stream", (HumStream,), {"before": before})(self, seed)


class HearsChance(Hum):
    def hear(self, audio, codes):
        return {"chance": torch.rand(3)}


DECODERS = [
    (humming(push=_click), "pieces", set()),
    (humming(finish=lambda self: HumStream.finish(self)[:-1]), "counts", set()),
    (humming(push=_withhold, finish=_release), "counts", set()),
    (SharesStream, "streams", set()),
    (humming(glide=_global_noise), "seeds", {"pieces", "streams"}),
    (humming(push=lambda self, codes: 9 * HumStream.push(self, codes)), "audible", set()),
    (HearsChance, "heard", set()),
    (humming(wants=lambda self: -1), "heard", set()),
]


class CountsFromOne(Loudness):
    def encode(self, audio):
        return super().encode(audio) + 8


class Normalises(Loudness):
    """In place."""

    def encode(self, audio):
        audio /= audio.abs().max() + 1e-9
        return super().encode(audio)


SPEECH_TOKENIZERS = [(CountsFromOne, "code_range", set()), (Normalises, "same_codes", set())]

CONTROLS = [
    *(("head", cls, None, *arguments) for cls, *arguments in HEADS),
    *(("layout", *arguments) for arguments in LAYOUTS),
    *(("tokenizer", cls, None, *arguments) for cls, *arguments in TOKENIZERS),
    *(("decoder", cls, None, *arguments) for cls, *arguments in DECODERS),
    *(("speech_tokenizer", cls, None, *arguments) for cls, *arguments in SPEECH_TOKENIZERS),
]
SOUND = [
    ("head", LinearHead),
    ("head", FSQHead),
    ("layout", CosyVoice2),
    ("tokenizer", Letters),
    ("decoder", Hum),
    ("speech_tokenizer", Loudness),
]


@pytest.mark.parametrize(
    ("kind", "cls", "config", "name", "also"),
    CONTROLS,
    ids=[f"{kind}-{name}-{cls.__name__}" for kind, cls, _, name, _ in CONTROLS],
)
def test_the_check_notices(kind, cls, config, name, also):
    failures = failed(kind, cls, config)
    assert name in failures
    assert also is None or failures <= {name, *also}


@pytest.mark.parametrize(("kind", "cls"), SOUND, ids=[f"{k}-{c.__name__}" for k, c in SOUND])
def test_sound_parts_pass(kind, cls):
    broken = [f"{r.name}: {r.detail}" for r in check_class(kind, cls) if not r.passed]
    assert broken == []


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in CONTROLS}))
def test_every_check_has_a_control(kind):
    controlled = {name for of, _, _, name, _ in CONTROLS if of == kind}
    common = {"config_round_trip", "light_import"}
    assert {check.name for check in suite(kind)} - common <= controlled


def test_a_heavy_plugin_module_is_noticed():
    assert failed("tokenizer", Letters, module="wishbone.core.contract.layout") == {"light_import"}
    assert failed("tokenizer", Letters, module="wishbone.no_such_module") == {"light_import"}
