"""Every check of a mixer by itself can fail, and says what is wrong."""

from dataclasses import dataclass

import pytest
import torch
from controls import failed
from torch import Tensor, nn

from wishbone.core.contract.stack.mixer import POINTER, Mixer
from wishbone.core.contract.stack.rows import memory_dtype, real_positions
from wishbone.core.testing import check_class, suite
from wishbone.core.testing.half_alone import CHECKS
from wishbone.kernels.linear import compiler_missing


@dataclass
class Empty:
    """Nothing to choose."""


class Decaying(Mixer):
    """m_t = sigmoid(decay) m_(t-1) + A x_t;  y_t = C m_t."""

    Config = Empty
    memory = ("mean",)
    targets = ("content", "output")

    def __init__(self, config, place):
        super().__init__(config, place)
        self.content = nn.Linear(place.width, place.width)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.decay = nn.Parameter(torch.ones(place.width))

    def init_state(self, batch, device, dtype):
        return {"mean": torch.zeros(batch, self.place.width, device=device, dtype=self.kind(dtype))}

    def kind(self, dtype):
        return memory_dtype(dtype)

    def forward(self, x, state, call):
        mean, rows = self.read(state), []
        decay, new = self.decay.sigmoid().to(mean.dtype), self.content(x).to(mean.dtype)
        real = self.real(call, x)
        for t in range(x.shape[1]):
            after = decay * mean + new[:, t]
            mean = after if real is None else torch.where(real[:, t, None], after, mean)
            rows.append(mean)
        return self.output(torch.stack(rows, 1).to(x.dtype)), self.write(torch.stack(rows, 1))

    def real(self, call, x):
        return real_positions(call.lengths, x)

    def read(self, state):
        return state["mean"]

    def write(self, rows):
        return {"mean": rows[:, -1].clone()}


class PeeksAhead(Decaying):
    """As a normalisation over time does."""

    def forward(self, x, state, call):
        y, after = super().forward(x, state, call)
        return y + 1e-13 * x.mean(1, keepdim=True), after


class SharesRows(Decaying):
    """As statistics over a batch do."""

    def read(self, state):
        return state["mean"] - state["mean"].mean(0)


class WritesIntoState(Decaying):
    def forward(self, x, state, call):
        y, after = super().forward(x, state, call)
        state["mean"] += 1
        return y, after


class WritesIntoInput(Decaying):
    def forward(self, x, state, call):
        y, after = super().forward(x, state, call)
        x += 1
        return y, after


class StepIsLate(Decaying):
    """Reads the memory before it writes, where ``forward`` reads it after."""

    def step(self, x, state, call):
        return self.output(state["mean"].to(x.dtype)), super().step(x, state, call)[1]


class StepIsAnother(Decaying):
    def step(self, x, state, call):
        y, after = super().step(x, state, call)
        return y + x, after


class StateIsLate(Decaying):
    """Forgets the last position of a call."""

    def write(self, rows):
        return {"mean": rows[:, max(rows.shape[1] - 2, 0)].clone()}


class ForgetsMask(Decaying):
    def real(self, call, x):
        return None


class ReadsMaskOfOthers(Decaying):
    """Lets what stands behind the end into the outputs before it."""

    def forward(self, x, state, call):
        y, after = super().forward(x, state, call)
        return (y if call.lengths is None else y + y.mean(1, keepdim=True)), after


class CoarseMemory(Decaying):
    def kind(self, dtype):
        return dtype


class NoSuchMemory(Decaying):
    memory = ("mean", "variance")


class GrowsUnsaid(Decaying):
    """Keeps every position and does not say so."""

    def init_state(self, batch, device, dtype):
        rows = torch.zeros(batch, 0, self.place.width, device=device, dtype=dtype)
        return super().init_state(batch, device, dtype) | {"rows": rows}

    def forward(self, x, state, call):
        y, after = super().forward(x, state, call)
        rows = torch.cat([state["rows"], x], 1)
        if call.lengths is not None:
            ends = state["rows"].shape[1] + call.lengths
            behind = torch.arange(rows.shape[1]) >= ends[:, None]
            rows = rows.masked_fill(behind[..., None], 0)
        return y, after | {"rows": rows}


class GrowsByAnotherNumber(GrowsUnsaid):
    constant = False

    def growth(self):
        return {"rows": self.place.width + 1}


class IsConstantAndSaysOtherwise(Decaying):
    constant = False


class KeepsAView(Decaying):
    def write(self, rows):
        return {"mean": rows[:, -1]}


class KeepsItsTranspose(Decaying):
    def init_state(self, batch, device, dtype):
        return {"mean": super().init_state(batch, device, dtype)["mean"].unflatten(1, (2, -1))}

    def read(self, state):
        return state["mean"].flatten(1)

    def write(self, rows):
        turned = rows[:, -1].unflatten(1, (2, -1)).mT.contiguous().mT
        return {"mean": turned}


class WrapsNothing(Decaying):
    targets = ("contents",)


class LeavesNothing(Decaying):
    publishes = ("mean",)


class KeepsItsOffer(Decaying):
    offers = ("sum",)


class PointsTooMuch(Decaying):
    points = 2

    def forward(self, x, state, call):
        call.extra[POINTER] = (
            torch.zeros(*x.shape[:2], 2, dtype=torch.int64),
            torch.ones(*x.shape[:2], 2),
        )
        return super().forward(x, state, call)


class PointsAtNothing(Decaying):
    points = 2


class HasOtherNames(Decaying):
    def write(self, rows):
        return {"average": rows[:, -1].clone()}

    def read(self, state):
        return state.get("mean", state.get("average"))


class AnswersOneVector(Decaying):
    def forward(self, x, state, call):
        y, after = super().forward(x, state, call)
        return y[:, -1:], after


MIXERS = [
    (PeeksAhead, "causal", "not causal: position 1 changes outputs before it"),
    (SharesRows, "rows", "something is shared between rows"),
    (WritesIntoState, "unchanged", "forward changes the state it was given in place: mean"),
    (WritesIntoInput, "unchanged", "forward changes x in place"),
    (StepIsLate, "steps", "off by one position: step gives at t"),
    (StepIsAnother, "steps", "step is not forward of one position"),
    (StateIsLate, "parts", "the state is off by one position"),
    (ForgetsMask, "lengths", "the mask is forgotten"),
    (ReadsMaskOfOthers, "lengths", "row of 9 positions"),
    (CoarseMemory, "memory", "memory mean of init_state is torch.bfloat16"),
    (NoSuchMemory, "memory", "there is no 'variance' in the state"),
    (GrowsUnsaid, "growth", "state bytes are wrong: rows has 48 numbers more"),
    (GrowsByAnotherNumber, "growth", "state bytes are wrong: rows has 48 numbers more"),
    (IsConstantAndSaysOtherwise, "growth", "constant is False"),
    (KeepsAView, "storage", "mean is a view of a larger tensor"),
    (KeepsItsTranspose, "storage", "mean is not contiguous"),
    (WrapsNothing, "names", "targets names ['contents']"),
    (LeavesNothing, "names", "publishes names ['mean']"),
    (KeepsItsOffer, "names", "offers names ['sum']"),
    (PointsTooMuch, "pointer", "weights of the pointer are 1 and more, 2 in all"),
    (PointsAtNothing, "pointer", "points is 2, and forward leaves no pointer"),
    (HasOtherNames, "form", "init_state has ['mean'], forward gives ['average']"),
    (AnswersOneVector, "form", "y is [3, 1, 48]"),
]


@pytest.mark.parametrize(
    ("cls", "name", "message"), MIXERS, ids=[cls.__name__ for cls, _, _ in MIXERS]
)
def test_the_check_names_the_fault(cls, name, message):
    results = {result.name: result for result in check_class("mixer", cls)}
    assert not results[name].passed
    assert message in results[name].detail


class IgnoresDevice(Decaying):
    """Makes its state on the CPU wherever the model is."""

    def init_state(self, batch, device, dtype):
        return super().init_state(batch, "cpu", dtype)


class GrowsForFree(GrowsUnsaid):
    """Keeps every position, says so, and counts no operation for reading them."""

    constant = False

    def growth(self):
        return {"rows": self.place.width}


@pytest.mark.parametrize(("cls", "name"), [(IgnoresDevice, "state_device"), (GrowsForFree, "cost")])
def test_the_stack_around_it_notices(cls, name):
    results = {result.name: result for result in check_class("mixer", cls)}
    assert {key for key, result in results.items() if not result.passed} == {name}


@pytest.mark.parametrize("kind", ["mixer", "ffn"])
def test_a_sound_half_passes(kind):
    assert failed(kind, Decaying) == set()


def test_every_check_of_a_half_by_itself_has_a_control():
    assert {name for name, _, _ in CHECKS} == {name for _, name, _ in MIXERS}
    assert {name for name, _, _ in CHECKS} < {check.name for check in suite("mixer")}


class WritesAnother(Decaying):
    """A recipe that leaves out the decay."""

    def recipe(self, recipe, x):
        new = recipe.linear(x, self.content)
        mean = recipe.pair("add", recipe.load("mean", x.size), new)
        recipe.store("mean", mean)
        return recipe.linear(mean, self.output)


class WritesIt(WritesAnother):
    """The right one: only that has to pass."""

    def recipe(self, recipe, x):
        new = recipe.linear(x, self.content)
        before = recipe.load("mean", x.size)
        kept = recipe.map("same", before, times=self.decay.sigmoid())
        mean = recipe.pair("add", kept, new)
        recipe.store("mean", mean)
        return recipe.linear(mean, self.output)


class ForgetsToWrite(WritesIt):
    """Changes what is computed, and not what is written."""

    def forward(self, x, state, call):
        y, state = super().forward(x, state, call)
        return 2 * y, state


def engine_of(cls):
    results = {result.name: result for result in check_class("mixer", cls)}
    return results["engine"]


def test_a_recipe_has_to_be_that_of_the_half():
    if compiler_missing():
        pytest.skip("needs a C++ compiler")
    assert engine_of(WritesIt).passed
    result = engine_of(WritesAnother)
    assert not result.passed and "is another function than forward: step 1" in result.detail
    result = engine_of(ForgetsToWrite)
    assert not result.passed and "whose forward is its own" in result.detail
    assert "it has no recipe" in engine_of(Decaying).detail


class Reader(Mixer):
    """A feed-forward part that needs what RWKV-7's time mixing leaves."""

    Config = Empty
    reads = ("v_first",)

    def __init__(self, config, place):
        super().__init__(config, place)
        self.down = nn.Linear(place.width, place.width)

    def forward(self, x: Tensor, state, call):
        return self.down(x * call.shared["v_first"]), state


def test_what_reads_from_another_half_is_tested_beside_one():
    results = {result.name: result for result in check_class("ffn", Reader)}
    assert results["causal"].skipped and not results["splits"].skipped
    assert [result.detail for result in results.values() if not result.passed] == []
