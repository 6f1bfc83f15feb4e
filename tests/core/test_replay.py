"""Recording and replaying with a stand-in for CUDA graphs, so that every line runs on a CPU."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from wishbone.core.model import cuda_graph as replays
from wishbone.core.model.cuda_graph import Replay

WIDTH = 4


class Adding:
    """h += x where there is room; y = h + number of positions before."""

    width, counter, narrow = WIDTH, "length", False

    def takes(self, x, state):
        return True

    def allocate(self, batch, room, like):
        kept = torch.zeros(batch, room, WIDTH)
        return {"length": torch.zeros(batch, dtype=torch.int64), "kept": kept}

    def step(self, x, state, seen):
        length = state["length"]
        assert state["kept"].shape[1] >= seen
        place = length.clamp(max=state["kept"].shape[1] - 1)
        state["kept"].scatter_(1, place[:, None, None].expand(-1, 1, WIDTH), x[:, None])
        y = state["kept"][:, :seen].sum(1) + length[:, None]
        length += 1
        return y


def empty(batch):
    return {
        "length": torch.zeros(batch, dtype=torch.int64),
        "kept": torch.zeros(batch, 0, WIDTH),
    }


@pytest.fixture
def recorded(monkeypatch):
    """CUDA's names, whose graph remembers the step taken inside and takes it again."""
    recording, made = [], []

    class Graph:
        def replay(self):
            self.y.copy_(self.step(*self.arguments))

    @contextmanager
    def graph(target, pool, capture_error_mode):
        assert pool == "pool" and capture_error_mode == "thread_local"
        recording.append(target)
        yield
        recording.pop()
        made.append(target)

    plain = Adding.step

    def step(self, *arguments):
        y = plain(self, *arguments)
        if recording:
            recording[-1].y, recording[-1].arguments = y, arguments
            recording[-1].step = lambda *again: plain(self, *again)
        return y

    monkeypatch.setattr(Adding, "step", step)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "graph_pool_handle": lambda: "pool",
        "device": lambda device: nullcontext(),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda which: nullcontext(),
        "CUDAGraph": Graph,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(replays, "BLOCK", 4)
    return made


def run(replay, x, state):
    return torch.stack([replay.step_(row[:, None], state)[:, 0] for row in x])


def expected(x):
    """x [T, B, D]: running sums, and how many came before."""
    return x.cumsum(0) + torch.arange(len(x))[:, None, None]


def test_a_graph_is_recorded_once_for_each_reach_and_batch(recorded):
    x = torch.randn(10, 2, WIDTH)
    replay = Replay(Adding())
    state = empty(2)
    assert torch.allclose(run(replay, x, state), expected(x))
    assert state["length"].tolist() == [10, 10]
    # reaches of 4, 8 and 12 slots, in memory for 4, 8 and 16
    assert len(recorded) == 3
    assert torch.allclose(run(replay, x[:3], other := empty(2)), expected(x[:3]))
    assert len(recorded) == 4 and other["length"].tolist() == [3, 3]
    run(replay, torch.randn(2, 3, WIDTH), empty(3))
    assert len(recorded) == 5


def test_recording_leaves_the_state_as_it_was(recorded):
    """The steps that warm up would else be counted."""
    x = torch.randn(1, 1, WIDTH)
    state = empty(1)
    Replay(Adding()).step_(x, state)
    assert state["length"].tolist() == [1]
    assert torch.equal(state["kept"][0, 0], x[0, 0])


def test_what_is_returned_outlives_the_next_step(recorded):
    x = torch.randn(3, 1, WIDTH)
    replay, state = Replay(Adding()), empty(1)
    first = replay.step_(x[0][None], state)
    kept = first.clone()
    replay.step_(x[1][None], state)
    assert torch.equal(first, kept)


def test_fewer_rows_than_memory_and_rows_that_are_written_by_others(recorded):
    x = torch.randn(6, 3, WIDTH)
    replay, state = Replay(Adding()), empty(3)
    run(replay, x[:3], state)
    state["length"][1] = 0
    state["kept"][1] = 0
    y = run(replay, x[3:], state)
    assert torch.allclose(y[:, [0, 2]], expected(x)[3:, [0, 2]])
    assert torch.allclose(y[:, 1], expected(x[3:])[:, 1])
    assert state["kept"].shape[0] == 3


def test_an_evicted_state_keeps_its_numbers(recorded):
    x = torch.randn(4, 2, 1, WIDTH)
    replay, states = Replay(Adding()), [empty(1), empty(1)]
    for t, row in enumerate(x):
        for n, state in enumerate(states):
            y = replay.step_(row[n][None], state)
            assert torch.allclose(y[:, 0], expected(x[:, n])[t])
    assert [state["length"].tolist() for state in states] == [[4], [4]]


def test_the_comparison_sees_a_recording_that_counts(recorded, monkeypatch):
    """Negative control: were the state not put back, the warm-up would show."""
    monkeypatch.setattr(replays, "WARM_UP", 0)
    plain = replays._Lane._record

    def careless(self, replay, seen):
        made = plain(self, replay, seen)
        self.state["length"] += 2
        return made

    monkeypatch.setattr(replays._Lane, "_record", careless)
    x = torch.randn(2, 1, WIDTH)
    assert not torch.allclose(run(Replay(Adding()), x, empty(1)), expected(x))
