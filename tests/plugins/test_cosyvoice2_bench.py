"""The suite ``flow``: what it times is the same work each time, or grows where it must."""

import pytest
import torch

from wishbone.core.bench.suite import read_plan
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.registry.registry import import_target


def work(key, seconds, monkeypatch):
    """Frames of every call of the estimator in one round, and the bytes of state."""
    plan = read_plan("flow", quick=True)
    entry = plan.entries[key]
    contender = import_target(entry.part)(entry.config, Job(plan.suite.model))
    contender.load()
    facts = contender.prepare(f"second {seconds}")
    # all cases are prepared before the first is timed, and each is timed as it was prepared
    contender.prepare("second 1" if seconds > 1 else "second 2")
    calls, estimate = [], contender.flow.estimator.forward

    def counted(x, *others):
        calls.append(x.shape[1])
        return estimate(x, *others)

    monkeypatch.setattr(contender.flow.estimator, "forward", counted)
    for times in contender.run(f"second {seconds}", 2).values():
        assert len(times) == 2 and min(times) > 0
    return calls, facts.get("state_bytes")


@pytest.mark.parametrize(
    ("key", "frames"), [("all", 50), ("ten", 50), ("again", 200), ("late", 350)]
)
def test_frames_of_one_more_second_after_three(key, frames, monkeypatch):
    calls, _ = work(key, 3, monkeypatch)
    assert calls == [frames] * 4


def test_what_is_remembered_grows_with_all_and_not_with_a_window(monkeypatch):
    (_, short), (_, long) = (work("all", n, monkeypatch) for n in (2, 4))
    # two chunks were pushed on top of a window of so many seconds
    assert short < long
    windows = [work("ten", n, monkeypatch)[1] for n in (2, 4)]
    assert windows[0] == windows[1]
    assert torch.is_grad_enabled()
