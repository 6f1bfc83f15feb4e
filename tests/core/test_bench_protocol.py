"""A contender's process: what it answers, and how its end is told."""

import os
import time

import pytest
from bench_toys import FOLDER, TOY

from wishbone.core.bench import protocol
from wishbone.core.bench.protocol import ContenderLost, Worker
from wishbone.core.contract.extensions.contender import Job


@pytest.fixture
def start():
    workers = []

    def begin(**config):
        workers.append(Worker("toy", TOY, config, Job({}, threads=1), {"PYTHONPATH": FOLDER}))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


def test_a_worker_is_another_process_with_the_threads_it_was_given(start):
    facts = start().load()
    assert facts["process"] != os.getpid()
    assert facts["threads"] == "1"


def test_a_round_comes_back_with_what_disturbed_it(start):
    worker = start(seconds=0.5)
    worker.load()
    answer = worker.run("step", 3)
    assert answer.measured == {"seconds": [1.0, 1.0, 1.0]}
    assert answer.wall >= 0 and answer.switches >= 0 and answer.busy >= 0


def test_an_exception_is_told_and_the_process_lives(start):
    worker = start()
    with pytest.raises(ContenderLost, match="no contender is open"):
        worker.run("step", 1)
    assert worker.load()["engine"] == "toy"
    with pytest.raises(ContenderLost, match="RuntimeError: there is no such library"):
        start(refuses="there is no such library").load()


def test_an_end_is_told_with_the_last_words(start):
    worker = start(dies_at=1)
    worker.load()
    worker.run("step", 1)
    with pytest.raises(ContenderLost, match="exit code 7.*the last words"):
        worker.run("step", 1)
    with pytest.raises(ContenderLost):
        worker.run("step", 1)


def test_a_silent_one_is_given_up(start, monkeypatch):
    worker = start()
    worker.load()
    monkeypatch.setattr(protocol, "ANSWERING", 0.2)
    begin = time.monotonic()
    with pytest.raises(ContenderLost, match="no answer for 0 s"):
        worker.run("hang", 1)
    assert time.monotonic() - begin < 30


def test_a_killed_one_names_the_signal(start):
    worker = start()
    worker.load()
    worker._process.kill()
    with pytest.raises(ContenderLost, match="signal 9"):
        worker.run("step", 1)
