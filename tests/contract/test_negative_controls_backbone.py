"""Every check of the backbone suite can fail: a part broken in one way, and what notices it."""

from dataclasses import dataclass

import pytest
import torch
from controls import failed
from plain_parts import Leaky, WidthConfig
from torch import nn

from wishbone.core.contract.backbone import Backbone, Caps
from wishbone.core.testing import check_class, states, suite


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


class StepRemembersBesides(Leaky):
    """Goes on from a state of its own as long as it is handed the same dictionary."""

    def step_(self, x, state):
        kept = getattr(self, "kept", None)
        before = kept[1] if kept is not None and kept[0] is state else dict(state)
        y, after = self(x, before)
        self.kept = (state, after)
        state.update({name: part.clone() for name, part in after.items()})
        return y


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


class SharesWhatIsNotCalled(Leaky):
    def __init__(self, config):
        super().__init__(config)
        self.idle = nn.Identity()

    def shardable(self):
        return [self.content, self.idle]


class SharesTwice(Leaky):
    def shardable(self):
        return [self, self.content]


class SharesWhatIsNotItsOwn(Leaky):
    def shardable(self):
        return [nn.Identity()]


class MixesOutOfSight(Leaky):
    def mixers(self):
        return [nn.Identity()]


class MixesUncalled(Leaky):
    def __init__(self, config):
        super().__init__(config)
        self.idle = nn.Identity()

    def mixers(self):
        return [self.content, self.idle]


class MixesOtherShapes(Leaky):
    """Calls what it names with vectors that are not positions."""

    def __init__(self, config):
        super().__init__(config)
        self.sum = nn.Identity()

    def mixers(self):
        return [self.sum]

    def forward(self, x, state=None, *, mask=None):
        y, state = super().forward(x, state, mask=mask)
        self.sum(y.sum(1))
        return y, state


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


class IgnoresDevice(Leaky):
    def init_state(self, batch, *, device=None, dtype=None):
        return super().init_state(batch, dtype=dtype)


class BreaksLate(Leaky):
    """Right in float64 and for as many positions as a short test has."""

    def forward(self, x, state=None, *, mask=None):
        y, after = super().forward(x, state, mask=mask)
        if x.dtype != torch.float64 and x.shape[1] > 100:
            y = torch.cat([y[:, :100], y[:, 100:] * torch.inf * 0], 1)
        return y, after


class PinsPrompt(Leaky):
    """The state is a view of something as long as the prompt."""

    def forward(self, x, state=None, *, mask=None):
        y, after = super().forward(x, state, mask=mask)
        memory = after["memory"]
        return y, {"memory": memory[:, None].repeat(1, x.shape[1], 1)[:, -1]}


class GrowsForFree(Leaky):
    caps = Caps(peft_targets=("content",))

    def state_bytes(self, length, *, dtype=torch.float32):
        return super().state_bytes(length, dtype=dtype) + 4 * length


class ReturnsOne(Leaky):
    def forward(self, x, state=None, *, mask=None):
        return super().forward(x, state, mask=mask)[0]


class DrawsByChance(Leaky):
    def forward(self, x, state=None, *, mask=None):
        y, after = super().forward(x, state, mask=mask)
        return y + 0.1 * torch.rand_like(y), after


class HasNoWidth(Leaky):
    def __init__(self, config):
        super().__init__(config)
        self.width = None

    def init_state(self, batch, *, device=None, dtype=None):
        return {"memory": torch.zeros(batch, self.decay.numel(), device=device)}


class ForgetsToWrite(Backbone):
    Config = WidthConfig

    def forward(self, x, state=None, *, mask=None):
        return x, {}

    def count_parameter(self, config):
        return 0


class HasNoDataclass(Leaky):
    class Config:
        width = 16


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
    (StepForgets, "step_in_place", {"step_rewritten"}),
    (StepRemembersBesides, "step_rewritten", set()),
    (SizeIsWrong, "state_size", set()),
    (SizeIsNotConstant, "state_size", {"cost"}),
    (StateIsDetached, "gradient", set()),
    (GradientIsWrong, "gradient", set()),
    (FormulaIsWrong, "parameters", set()),
    (GroupIsMissing, "parameters", set()),
    (BuildsForReal, "parameters", set()),
    (WrapsNothing, "adapters", set()),
    (SharesWhatIsNotCalled, "shares", set()),
    (SharesTwice, "shares", set()),
    (SharesWhatIsNotItsOwn, "shares", set()),
    (MixesOutOfSight, "mixers", set()),
    (MixesUncalled, "mixers", set()),
    (MixesOtherShapes, "mixers", set()),
    (IgnoresDevice, "state_device", set()),
    (BreaksLate, "long_run", set()),
    (PinsPrompt, "long_run", set()),
    (GrowsForFree, "cost", {"state_size"}),
    (ReturnsOne, "preflight", set()),
    (DrawsByChance, "preflight", set()),
    (HasNoWidth, "preflight", set()),
    (ForgetsToWrite, "preflight", set()),
    (HasNoDataclass, "preflight", set()),
    (HalfState, "low_precision", {"state_device"}),
    (CoarseInHalf, "low_precision", set()),
    (HasTuple, "config_round_trip", set()),
    (HasSilentField, "config_round_trip", set()),
]


@pytest.mark.parametrize(
    ("cls", "name", "also"),
    BACKBONES,
    ids=[f"{name}-{cls.__name__}" for cls, name, _ in BACKBONES],
)
def test_the_check_notices(cls, name, also, monkeypatch):
    if name != "long_run":
        # the toy goes position by position, and what is wrong with it shows sooner
        monkeypatch.setattr(states, "LONG", 50)
    failures = failed("backbone", cls)
    assert name in failures
    assert also is None or failures <= {name, *also}


def test_a_sound_backbone_passes():
    assert failed("backbone", Leaky) == set()


def test_every_check_has_a_control():
    controlled = {name for _, name, _ in BACKBONES}
    assert {check.name for check in suite("backbone")} - {"light_import"} <= controlled


def test_a_property_that_is_not_promised_is_skipped():
    class Promises(Leaky):
        caps = Caps(constant_state=True, varlen=False)

    results = {r.name: r for r in check_class("backbone", Promises)}
    assert results["mask_left"].skipped and results["mask_left"].passed
    assert not results["splits"].skipped
