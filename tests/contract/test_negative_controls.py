"""Every check of the contract suites can fail: a part broken in one way, and what notices it."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from plain_parts import Empty, Hum, HumStream, Leaky, Letters, Loudness, WidthConfig
from torch import nn

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.core.interfaces import Caps, Positions, TextSpace
from wishbone.core.testing import check_class, suite
from wishbone.plugins.heads.head import FSQHead, LinearHead


def failed(kind, cls, config=None, module=None):
    return {r.name for r in check_class(kind, cls, config, module=module) if not r.passed}


class PeeksAhead(Leaky):
    """Too faintly for any tolerance, but not for bits."""

    def forward(self, x, state=None, *, mask=None):
        y, after = super().forward(x, state, mask=mask)
        return y + 1e-13 * x.mean(1, keepdim=True), after


class CountsCalls(Leaky):
    """Each call starts with a little decay of its own, as a position counter per call would."""

    def read(self, state):
        return 0.99 * state["memory"]


def ignoring(when):
    class IgnoresMask(Leaky):
        def forward(self, x, state=None, *, mask=None):
            ignore = mask is not None and mask.any() and when(mask)
            return super().forward(x, state, mask=None if ignore else mask)

    return IgnoresMask


class NoneIsNaN(Leaky):
    def forward(self, x, state=None, *, mask=None):
        y, after = super().forward(x, state, mask=mask)
        return (y if mask is None else y / mask.any(), after)


class StateIsParameter(Leaky):
    def write(self, memory):
        return {"memory": memory.clone() if torch.is_grad_enabled() else nn.Parameter(memory)}


class StateSharesMemory(Leaky):
    """safetensors refuses to write one storage under two names."""

    def init_state(self, batch, *, device=None, dtype=None):
        return self.write(super().init_state(batch, device=device, dtype=dtype)["memory"])

    def read(self, state):
        return (state["memory"] + state["again"]) / 2

    def write(self, memory):
        return {"memory": memory, "again": memory}

    def state_bytes(self, length, *, dtype=torch.float32):
        return 2 * super().state_bytes(length, dtype=dtype)


class ChangesState(Leaky):
    def forward(self, x, state=None, *, mask=None):
        y, after = super().forward(x, state, mask=mask)
        if state is not None and not torch.is_grad_enabled():
            state["memory"] += 1
        return y, after


class MixesRows(Leaky):
    """Statistics over the batch, as a batch norm in training mode has them."""

    def read(self, state):
        return state["memory"] - state["memory"].mean(0, keepdim=True)


class StepForgets(Leaky):
    def step_(self, x, state):
        return self(x, state)[0]


class SizeIsWrong(Leaky):
    def state_bytes(self, length, *, dtype=torch.float32):
        return super().state_bytes(length, dtype=dtype) + 4


class SizeIsNotConstant(Leaky):
    def state_bytes(self, length, *, dtype=torch.float32):
        return super().state_bytes(length, dtype=dtype) + 4 * length


class StateIsDetached(Leaky):
    def read(self, state):
        return state["memory"].detach()


class GradientIsWrong(Leaky):
    """The same numbers forward, half as much again backward."""

    def forward(self, x, state=None, *, mask=None):
        return super().forward(x + 0.5 * (x - x.detach()), state, mask=mask)


class FormulaIsWrong(Leaky):
    @classmethod
    def count_parameters(cls, config):
        return 2 * config.width**2 + config.width


class GroupIsMissing(Leaky):
    def parameter_groups(self, learning_rate, weight_decay):
        return super().parameter_groups(learning_rate, weight_decay)[:1]


class BuildsForReal(Leaky):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("table", torch.zeros(2, device="cpu"))


class WrapsNothing(Leaky):
    caps = Caps(constant_state=True, peft_targets=("contents",))


class HalfState(Leaky):
    def init_state(self, batch, *, device=None, dtype=None):
        return {"memory": torch.zeros(batch, self.width, dtype=dtype or self.decay.dtype)}

    def state_bytes(self, length, *, dtype=torch.float32):
        return self.width * dtype.itemsize


class CoarseInHalf(Leaky):
    """Loses what bfloat16 does not hold where float32 keeps it: a large constant between."""

    def forward(self, x, state=None, *, mask=None):
        return super().forward(x + 100 - 100, state, mask=mask)


@dataclass
class TupleConfig(WidthConfig):
    """YAML has no tuples."""

    kernel: tuple = (1, 2)
    """A pair."""


class HasTuple(Leaky):
    Config = TupleConfig


@dataclass
class SilentConfig(WidthConfig):
    """A field without a sentence."""

    depth: int = 1


class HasSilentField(Leaky):
    Config = SilentConfig


MASKS = {"mask_right", "mask_left", "mask_mixed"}
BACKBONES = [
    (CountsCalls, "splits", MASKS | {"mask_all", "step_in_place", "state_form"}),
    (PeeksAhead, "causality", set()),
    (ignoring(lambda m: m[:, 0].all()), "mask_right", set()),
    (ignoring(lambda m: m[:, -1].all()), "mask_left", set()),
    (ignoring(lambda m: not m[:, 0].all() and not m[:, -1].all()), "mask_mixed", set()),
    (NoneIsNaN, "mask_all", set()),
    (StateIsParameter, "state_form", set()),
    (StateSharesMemory, "state_file", set()),
    (ChangesState, "state_fork", None),
    (MixesRows, "state_reorder", None),
    (StepForgets, "step_in_place", set()),
    (SizeIsWrong, "state_size", set()),
    (SizeIsNotConstant, "state_size", set()),
    (StateIsDetached, "gradient", set()),
    (GradientIsWrong, "gradient", set()),
    (FormulaIsWrong, "parameters", set()),
    (GroupIsMissing, "parameters", set()),
    (BuildsForReal, "parameters", set()),
    (WrapsNothing, "adapters", set()),
    (HalfState, "low_precision", set()),
    (CoarseInHalf, "low_precision", set()),
    (HasTuple, "config_round_trip", set()),
    (HasSilentField, "config_round_trip", set()),
]


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


class LosesBuffer(FSQHead):
    """A table computed while building, which a meta build leaves empty."""

    def __init__(self, config, *, width, codes, extra):
        super().__init__(config, width=width, codes=codes, extra=extra)
        self.register_buffer("scale", torch.full((width,), 2.0), persistent=False)

    def embed(self, ids):
        return super().embed(ids) * self.scale


HEADS = [
    (DropsDimension, "shapes", {"learns", "samples"}),
    (ExtraIdsAlike, "distinct", {"gradient", "learns"}),
    (BooksAlike, "distinct", {"gradient"}),
    (TableIsDetached, "gradient", {"learns"}),
    (StartsDead, "learns", set()),
    (AsksOnce, "samples", set()),
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
        kept = [letter for letter in text.lower().strip() if "a" <= letter <= "z" or letter == " "]
        return [self.seen.setdefault(letter, len(self.seen)) for letter in kept]


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
    start = {"start": lambda self, *, seed=0, speaker=None: stream(self, seed)}
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

    def start(self, *, seed=0, speaker=None):
        self.level = None
        before = property(lambda s: s.decoder.level, lambda s, v: setattr(s.decoder, "level", v))
        return type("Stream", (HumStream,), {"before": before})(self, seed)


DECODERS = [
    (humming(push=_click), "pieces", set()),
    (humming(finish=lambda self: HumStream.finish(self)[:-1]), "counts", set()),
    (humming(push=_withhold, finish=_release), "counts", set()),
    (SharesStream, "streams", set()),
    (humming(glide=_global_noise), "seeds", {"pieces", "streams"}),
    (humming(push=lambda self, codes: 9 * HumStream.push(self, codes)), "audible", set()),
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
    *(("backbone", cls, None, *rest) for cls, *rest in BACKBONES),
    *(("head", cls, None, *rest) for cls, *rest in HEADS),
    *(("layout", *rest) for rest in LAYOUTS),
    *(("tokenizer", cls, None, *rest) for cls, *rest in TOKENIZERS),
    *(("decoder", cls, None, *rest) for cls, *rest in DECODERS),
    *(("speech_tokenizer", cls, None, *rest) for cls, *rest in SPEECH_TOKENIZERS),
]
SOUND = [
    ("backbone", Leaky),
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
    found = failed(kind, cls, config)
    assert name in found
    assert also is None or found <= {name, *also}


@pytest.mark.parametrize(("kind", "cls"), SOUND, ids=[f"{k}-{c.__name__}" for k, c in SOUND])
def test_sound_parts_pass(kind, cls):
    broken = [f"{r.name}: {r.detail}" for r in check_class(kind, cls) if not r.passed]
    assert broken == []


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in CONTROLS}))
def test_every_check_has_a_control(kind):
    controlled = {name for of, _, _, name, _ in CONTROLS if of == kind}
    common = {"config_round_trip", "light_import"}
    assert {each.name for each in suite(kind)} - common <= controlled


def test_a_heavy_plugin_module_is_noticed():
    assert failed("tokenizer", Letters, module="wishbone.core.interfaces") == {"light_import"}
    assert failed("tokenizer", Letters, module="wishbone.no_such_module") == {"light_import"}


def test_a_property_that_is_not_promised_is_skipped():
    class Promises(Leaky):
        caps = Caps(constant_state=True, varlen=False)

    results = {r.name: r for r in check_class("backbone", Promises)}
    assert results["mask_left"].skipped and results["mask_left"].passed
    assert not results["splits"].skipped


@dataclass
class ListConfig(WidthConfig):
    """A list is what YAML has."""

    kernel: list[int] = field(default_factory=lambda: [1, 2])
    """A pair."""


def test_a_list_in_a_config_passes():
    class HasList(Leaky):
        Config = ListConfig

    assert failed("backbone", HasList) == set()
