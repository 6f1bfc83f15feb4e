"""Many clients at a real server: load, and the samples of the library for texts by chance.

Seconds in CI; ``WISHBONE_SERVE_SECONDS=300`` and ``WISHBONE_SERVE_TRIALS=200`` take as long as a
claim needs. The figures of such runs are in configs/bench/results/serve.
"""

import json
import os
import signal
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from real_server import ARMS

from wishbone.core.config.compose import bundled
from wishbone.core.serve import load_test
from wishbone.core.serve.load_test import LoadResult, run_load_test

SECONDS = float(os.environ.get("WISHBONE_SERVE_SECONDS", "6"))
# loading takes most of a short test
TRIED = ARMS if SECONDS >= 60 else ARMS[:1]
CLIENTS = 32


@pytest.mark.timeout(900 + 3 * SECONDS)
@pytest.mark.parametrize("system", TRIED)
def test_32_clients_get_what_each_gets_alone(system):
    words = ["--queue", str(CLIENTS)]
    result = run_load_test(system, words, CLIENTS, SECONDS, alone=1)
    assert result.requests >= CLIENTS, result.lines()
    assert result.is_whole and result.is_flat, result.lines()
    # loading is most of it, so that one request tells enough
    assert result.ratio >= 3, result.lines()
    assert (result.machine["cores"], result.slots) > (0, 3) and result.versions["torch"]


def test_an_answer_that_differs_and_memory_that_grows_are_seen(monkeypatch):
    """Negative control: the same load against a server that says something else each time."""
    answers = iter(range(10_000))
    memory = iter(range(100, 10_000, 10))
    monkeypatch.setattr(load_test, "_ask", lambda *request: (b"%d" % next(answers), 0.1))
    monkeypatch.setattr(load_test, "_metrics", lambda port: {"memory": float(next(memory))})
    monkeypatch.setattr(load_test, "LOOK", 0.01)
    result = LoadResult("x", 2, 0.2, settled_after=0.05, exit_code=0)
    # every request is slow enough for a few looks at the memory
    monkeypatch.setattr(load_test.Random, "randrange", lambda dice, most: slow(most))
    load_test._load(result, 0, [("text", 0)], [b"-"])
    assert result.unequal == result.requests > 2 and not result.is_whole
    assert result.memory_mib["most"] > result.memory_mib["least"]
    result.settled_after, result.spread_percent = 60.0, 5.1
    assert not result.is_flat


class Ended:
    """A server that ends when it is told to."""

    def send_signal(self, number):
        self.told = number

    def wait(self, seconds):
        return 0 if self.told == signal.SIGTERM else 1


@pytest.fixture
def load_by_hand(monkeypatch):
    """The test of a load with every measurement written down here; the requests of processes."""
    looks = iter([(10.0, 0.0, 100.0), (13.0, 6.0, 110.0), (33.0, 46.0, 150.0)])
    names = ("work", "audio", "memory")
    monkeypatch.setattr(
        load_test, "_metrics", lambda port: dict(zip(names, next(looks), strict=True), slots=4.0)
    )
    monkeypatch.setattr(load_test, "_ask", lambda port, model, *request: (b"", 0.1))
    memory = {"settled": 120.0, "least": 100.0, "most": 125.0}
    monkeypatch.setattr(
        load_test, "_load", lambda result, *arguments: result.memory_mib.update(memory)
    )
    alone = []

    def speak_alone(system, requests, folder):
        alone.extend(requests)
        return 2.25

    @contextmanager
    def run_server(words):
        yield Ended(), 1, []

    monkeypatch.setattr(load_test, "_work_of_processes", speak_alone)
    monkeypatch.setattr(load_test, "run_server", run_server)
    return alone


def test_the_figures_of_a_load_follow_from_what_is_measured(load_by_hand):
    result = run_load_test("quickstart-rwkv7", [], 2, 8.0)
    # 120 to 150 MiB, and 100 to 125
    assert (result.growth_percent, result.spread_percent) == pytest.approx((25.0, 25.0))
    assert result.audio_seconds == 40.0 and result.settled_after == 2.0 and result.slots == 4
    work = {"server, one client": 0.5, "server": 0.5, "a process each": 2.25}
    assert result.work_per_second == pytest.approx(work) and result.ratio == pytest.approx(4.5)
    assert result.exit_code == 0 and len(load_by_hand) == 3
    assert (result.memory_mib["ready"], result.memory_mib["end"]) == (110.0, 150.0)


def test_no_process_alone_means_no_ratio(load_by_hand):
    result = run_load_test("quickstart-rwkv7", [], 2, 8.0, alone=0)
    assert load_by_hand == [] and result.ratio == 0
    assert "a process each" not in result.work_per_second


def test_the_work_of_processes_is_theirs_alone(tmp_path, monkeypatch):
    """Seconds of processor time that children took meanwhile, over the seconds that they spoke."""
    import resource

    used = iter([SimpleNamespace(ru_utime=40.0, ru_stime=2.0),
                 SimpleNamespace(ru_utime=52.0, ru_stime=5.0)])  # fmt: skip
    monkeypatch.setattr(resource, "getrusage", lambda who: next(used))
    commands = []

    def speak(command, **_):
        commands.append(command)
        soundfile.write(command[command.index("-o") + 1], np.zeros(24_000 * 3), 24_000)

    monkeypatch.setattr(load_test.subprocess, "run", speak)
    requests = [("Hello.", 0), ("Bye.", 7)]
    work = load_test._work_of_processes("quickstart-rwkv7", requests, tmp_path)
    assert work == pytest.approx(15.0 / 6.0)
    assert [(c[c.index("say") + 1], c[c.index("--seed") + 1]) for c in commands] == [
        ("Hello.", "0"), ("Bye.", "7"),
    ]  # fmt: skip


def slow(most):
    """Choose the first request after a while."""
    import time

    time.sleep(0.01)
    return 0


PUBLISHED = sorted((bundled() / "bench" / "results" / "serve").glob("*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_loads_are_records_and_on_the_page(path):
    """Every field of a committed result is one of the record, and the page shows its figures."""
    data = json.loads(path.read_text())
    result = LoadResult(**data)
    assert asdict(result) == data and result.is_whole and result.is_flat
    page = (Path(load_test.__file__).parent / "README.md").read_text()
    work = result.work_per_second
    figures = [
        f"{result.requests}, {result.failed}, {result.unequal}",
        f"+{result.spread_percent:.1f} %",
        *(f"{value:.3f} s" for value in (work["server"], work["server, one client"])),
        f"{work['a process each']:.1f} s", f"{result.ratio:.0f}",
        *(f"{result.memory_mib[name]:.0f}" for name in ("ready", "settled", "end")),
    ]  # fmt: skip
    assert [figure for figure in figures if figure not in page] == []


def test_a_load_is_published_for_each_arm():
    assert {json.loads(path.read_text())["system"] for path in PUBLISHED} == set(ARMS)
