"""One system against itself by real clocks: no verdict, whether or not others want the processor.

The small form of ``wishbone ab self``: three arms, six sentences, and on one processor, which two
processes that never rest share with it.
"""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from test_ab_parts import plan
from tiny_system import tiny_system

from wishbone.core.evaluate.experiment import generate, timing
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.sources.source import SystemSource
from wishbone.core.evaluate.sources.speak_missing import speak_prompt
from wishbone.core.evaluate.statistics import compare
from wishbone.core.evaluate.statistics.metrics import choose, choose_primary

KEYS = ("one", "two", "three")
SPIN = "import sys\nprint('spinning', flush=True)\nwhile True: pass"
SPEEDS = ("rtf", "first_audio", "processor_rtf")

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot tie a process to a processor"
)


@contextmanager
def one_processor(spinners):
    """This thread on one processor, beside processes that never rest."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    started = [
        subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
        for _ in range(spinners)
    ]
    try:
        for process in started:
            assert process.stdout.readline() == b"spinning\n"
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()
        os.sched_setaffinity(0, before)


def speaking(system, text, voice, seed, record):
    """Stands for a system: three chunks of a second, some milliseconds of work each."""
    record.append(generate.Utterance(text, codes=[(0,)] * 75, reason="end"))
    weights = torch.ones(128, 128)
    for _ in range(3):
        for _ in range(60):
            weights = torch.tanh(weights @ weights)
        yield torch.rand(24_000)


def judged(tmp_path, monkeypatch, spinners):
    """How times were taken, and the verdicts on them."""
    monkeypatch.setattr(generate, "stream", speaking)
    given = plan(prompts=6, **{key: {} for key in KEYS})
    given.metrics = choose_primary(SPEEDS, choose(), "here")
    items, source = Items(tmp_path / "items.jsonl"), SystemSource(tiny_system())
    with one_processor(spinners):
        torch.set_num_threads(1)
        for prompt, repeat, orders in timing.schedule(given):
            sources = dict.fromkeys(KEYS, source)
            speak_prompt(given, items, tmp_path, prompt, repeat, orders, sources)
    taken = timing.summary(given, items, on_cpu=True)
    analysis = compare.analyse(items, given, busy=taken.busy)
    rows = [row for row in analysis.comparisons if row.metric in SPEEDS]
    assert len(rows) == 6
    return taken, {row.outcome.verdict for row in rows}


def test_a_loaded_machine_is_noticed_and_gives_no_verdict(tmp_path, monkeypatch):
    taken, verdicts = judged(tmp_path, monkeypatch, spinners=2)
    # each of three has a third of the processor
    assert taken.waited > 0.4 and taken.busy
    assert verdicts == {"none"}


def test_alone_it_is_neither_better_nor_worse(tmp_path, monkeypatch):
    # other tests may run beside this one: then no verdict is given, which is as good
    _, verdicts = judged(tmp_path, monkeypatch, spinners=0)
    assert not {"better", "worse"} & verdicts
