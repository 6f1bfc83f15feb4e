"""What is fixed before the data: margins, primary metrics and looks; and fair times."""

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from test_ab_files import write
from test_ab_parts import plan
from tiny_system import tiny_system

from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.core.evaluate.experiment import commitment, generate, timing
from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.experiment.items import UNMEASURED, Items
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.evaluate.sources.source import Source, SystemSource
from wishbone.core.evaluate.sources.speak_missing import speak_prompt
from wishbone.core.evaluate.statistics import compare
from wishbone.core.evaluate.statistics.metrics import choose, choose_primary
from wishbone.core.evaluate.statistics.turns import williams


def test_margins_of_a_finished_run_cannot_be_changed_unseen(tmp_path):
    given = plan(prompts=12)
    first = commitment.commit(given, tmp_path, begun=False, allow=False)
    assert (first.look, first.alpha, first.changed) == (1, 0.05, [])
    assert commitment.commit(given, tmp_path, begun=True, allow=False) == first
    other = replace(given, metrics=choose({"wer": 6}))
    with pytest.raises(UsageError, match=r"margins.wer 2 -> 6") as caught:
        commitment.commit(other, tmp_path, begun=True, allow=False)
    assert "--allow" in caught.value.do
    loud = commitment.commit(other, tmp_path, begun=True, allow=True)
    assert loud.changed == ["margins.wer 2 -> 6"] and loud.digest == first.digest
    # before the first item it is still a plan
    again = commitment.commit(other, tmp_path, begun=False, allow=False)
    assert again.changed == [] and again.digest != first.digest


def test_other_primary_metrics_are_a_change_too(tmp_path):
    given = plan(prompts=12)
    commitment.commit(given, tmp_path, begun=False, allow=False)
    other = replace(given, metrics=choose_primary(["rtf"], given.metrics, "here"))
    with pytest.raises(UsageError, match="primary"):
        commitment.commit(other, tmp_path, begun=True, allow=False)


def test_an_edited_plan_is_seen(tmp_path):
    given = plan(prompts=12)
    commitment.commit(given, tmp_path, begun=False, allow=False)
    path = tmp_path / commitment.FILE
    path.write_text(path.read_text().replace('"wer": 2.0', '"wer": 6.0'))
    with pytest.raises(UsageError, match="edited"):
        commitment.commit(given, tmp_path, begun=True, allow=False)


def test_a_plan_that_came_after_the_data_says_so(tmp_path):
    assert not commitment.commit(plan(), tmp_path, begun=True, allow=False).before_data


def test_looks_have_a_price_and_more_prompts_than_planned_have_no_verdict(tmp_path):
    given = replace(plan(prompts=24), looks=[24, 48])
    first = commitment.commit(given, tmp_path, begun=False, allow=False)
    assert first.look == 1 and 0 < first.alpha < 0.01
    last = commitment.commit(
        replace(given, prompts=given.prompts * 2), tmp_path, begun=True, allow=False
    )
    assert last.look == 2 and first.alpha + last.alpha == pytest.approx(0.05)
    more = commitment.commit(
        replace(given, prompts=given.prompts * 3), tmp_path, begun=True, allow=False
    )
    assert (more.look, more.alpha) == (0, 0.0)
    # and so have more repeats
    assert commitment.commit(replace(given, seeds=3), tmp_path, begun=True, allow=False).look == 0


def test_looks_and_primary_metrics_are_read_and_checked(tmp_path):
    arms = "arms: {a: quickstart-rwkv7, b: quickstart-rwkv7}\n"
    given = read_plan(write(tmp_path, f"{arms}looks: [6, 12]\nprimary: [wer, rtf]\nlimit: 12\n"))
    assert given.looks == [6, 12] and given.available == 100 and given.rounds == 3
    wanted = commitment.protocol_of(given)
    assert wanted.primary == ["wer", "rtf"] and wanted.looks == [6, 12]
    for text, message in (
        ("looks: [12, 6]", "looks"), ("primary: [werr]", "werr"),
        ("looks: [24, 48, 96]", "look at 24 of 96"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            read_plan(write(tmp_path, arms + text))


def test_other_sentences_are_another_plan(tmp_path):
    given = plan(prompts=4)
    commitment.commit(given, tmp_path, begun=False, allow=False)
    prompts = [*given.prompts[:2], replace(given.prompts[2], text="other"), given.prompts[3]]
    with pytest.raises(UsageError, match="prompts: 1 have another text"):
        commitment.commit(replace(given, prompts=prompts), tmp_path, begun=True, allow=False)


def test_an_item_has_the_median_of_its_rounds():
    one = Generation(
        seed=1, computing=1.0, seconds=2.0, codes=50, cut_words=0, engine="eager", failure="",
        error="", rtf=0.5, first_audio=90.0, token_rate=50.0, stall=0.0, processor=0.9,
    )  # fmt: skip
    rounds = [one] + [replace(one, computing=t, processor=t, first_audio=t) for t in (2.0, 10.0)]
    answer = timing.together(rounds)
    assert (answer.computing, answer.processor, answer.rtf, answer.rounds) == (2.0, 2.0, 1.0, 3)
    assert answer.first_audio == 10.0 and answer.token_rate == 25.0
    failed = replace(one, error="boom")
    assert timing.together([one, failed, failed]).computing == 1.0


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_everybody_is_first_and_follows_everybody_equally_often(size):
    rows = [[str(place) for place in row] for row in williams(size)]
    assert len(rows) == (size if size % 2 == 0 else 2 * size)
    assert set(Counter(row[0] for row in rows).values()) == {len(rows) // size}
    follows = Counter(pair for row in rows for pair in zip(row, row[1:], strict=False))
    assert len(follows) == size * (size - 1) and len(set(follows.values())) == 1


class Clock:
    """A clock and a processor that advance when somebody works."""

    def __init__(self, seed, load=0.0):
        self.random, self.load = np.random.default_rng(seed), load
        self.now = self.worked = 0.0

    def work(self, seconds):
        seconds *= self.random.lognormal(0, 0.1)
        self.worked += seconds
        # others take the processor now and then, for long
        self.now += seconds * (1 + self.load * self.random.exponential() ** 2)


def run_of_one_system(tmp_path, monkeypatch, clock, fair=True):
    """The verdicts on speed of a system against itself, three times, on an invented machine."""
    keys = ("one", "two", "three")
    given = plan(prompts=12, **{key: {"weights": key} for key in keys})
    given.metrics = choose_primary(["rtf", "first_audio"], choose(), "here")
    system = tiny_system()
    remembered = set()

    def encode(text, encode=system.tokenizer.encode):
        clock.work(0.015 if text in remembered else 0.072)
        remembered.add(text)
        return encode(text)

    def stream(system, text, voice, seed, record):
        system.tokenizer.encode(text)
        clock.work(0.02)
        record.append(generate.Utterance(text, codes=[0] * 75, reason="end"))
        for _ in range(3):
            yield generate.torch.rand(24_000)
            clock.work(0.05)

    monkeypatch.setattr(system.tokenizer, "encode", encode)
    monkeypatch.setattr(generate, "stream", stream)
    monkeypatch.setattr(generate, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(generate, "process_time", lambda: clock.worked)
    monkeypatch.setattr(timing, "load", lambda: 0.5 + 4 * clock.load)
    monkeypatch.setattr(timing, "cores", lambda: 2)
    monkeypatch.setattr(timing, "_used", lambda: None)  # the load counts where others do not
    items = Items(tmp_path / "items.jsonl")
    orders = [list(keys)] * 1
    if not fair:
        monkeypatch.setattr(generate, "read_text", lambda *_: None)
    for number, (prompt, repeat, fair_orders) in enumerate(timing.schedule(given)):
        turns = fair_orders if fair else [order[:: 1 - 2 * (number % 2)] for order in orders]
        systems = dict.fromkeys(keys, SystemSource(system))
        speak_prompt(given, items, tmp_path, prompt, repeat, turns, systems)
    taken = timing.summary(given, items, on_cpu=True)
    analysis = compare.analyse(items, given, busy=taken.busy)
    rows = [row for row in analysis.comparisons if row.metric in ("rtf", "first_audio")]
    return taken, [row.outcome.verdict for row in rows]


def test_a_system_against_itself_gets_no_verdict_on_an_idle_machine(tmp_path, monkeypatch):
    taken, verdicts = run_of_one_system(tmp_path, monkeypatch, Clock(0))
    assert taken.busy == "" and taken.rounds == 3 and taken.waited < 0.01
    assert len(verdicts) == 4 and not {"better", "worse"} & set(verdicts)


def test_nor_on_a_busy_one(tmp_path, monkeypatch):
    taken, verdicts = run_of_one_system(tmp_path, monkeypatch, Clock(0, load=2.0))
    assert "load was 8.5 on 2 cores" in taken.busy
    assert set(verdicts) == {"none"}


def test_taking_turns_alone_would_have_given_one(tmp_path, monkeypatch):
    """Negative control: once each, and whoever speaks a sentence first pays for its words."""
    _, verdicts = run_of_one_system(tmp_path, monkeypatch, Clock(0), fair=False)
    assert {"better", "worse"} & set(verdicts)


def test_a_machine_is_busy_by_its_load_or_by_what_items_wait():
    assert timing.busy(1.9, 2, 0.05) == "" and timing.busy(None, 2, 0.0) == ""
    assert "load was 2.5" in timing.busy(2.5, 2, 0.0)
    assert "waited 30 %" in timing.busy(0.5, 2, 0.3)


def test_the_work_of_others_counts_more_than_a_load_that_remembers_the_minute_before():
    assert timing.busy(4.0, 2, 0.0, others=0.2) == "" and timing.busy(4.0, 1, 0.0, others=0.1) == ""
    assert "other programs used 0.8 of 2 cores" in timing.busy(1.0, 2, 0.0, others=0.8)
    assert "other programs used 0.2 of 1 cores" in timing.busy(0.5, 1, 0.0, others=0.2)
    assert "waited 30 %" in timing.busy(0.5, 8, 0.3, others=0.0)


def test_own_work_is_no_work_of_others(monkeypatch):
    # clock, this process, all of this process's processors
    readings = iter([(0.0, 5.0, 100.0), (2.0, 6.8, 102.5), (0.0, 5.0, 100.0), (0.05, 5.0, 101.0)])
    monkeypatch.setattr(timing, "_used", lambda: next(readings))
    assert timing.Others().count() == 0.35
    assert timing.Others().count() is None  # too short for a clock of 10 ms steps


def test_a_source_outside_is_none_of_the_others(tmp_path, monkeypatch):
    """A server on this machine works for the arm: its work must not make the machine busy."""
    monkeypatch.setattr(timing.Others, "count", lambda self: 1.5)
    given, system = replace(plan(prompts=1), rounds=1), SystemSource(tiny_system())

    class Outside(Source):
        def speak(self, prompt, seed, voice):
            return system.speak(prompt, seed, voice)

    items = Items(tmp_path / "items.jsonl")
    ((prompt, repeat, orders),) = timing.schedule(given)
    speak_prompt(given, items, tmp_path, prompt, repeat, orders, {"old": system, "new": Outside()})
    assert items.get("old", prompt.key, repeat).row["others"] == 1.5
    assert "others" not in items.get("new", prompt.key, repeat).row


def test_a_process_that_never_rests_is_counted():
    pytest.importorskip("psutil", reason="psutil is not installed; it comes with wishbone-tts[ab]")
    alone = timing.Others()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass
    before = alone.count()
    code = "import sys\nprint('spinning', flush=True)\nwhile True: pass"
    spinner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert spinner.stdout.readline() == b"spinning\n"
        beside = timing.Others()
        time.sleep(0.5)
        # tests beside this one may use every processor already
        assert beside.count() >= min(before + 0.3, 0.5)
    finally:
        spinner.kill()
        spinner.communicate()


def test_patience_is_of_processor_time_and_what_ran_out_is_spoken_again(tmp_path, monkeypatch):
    given, systems = plan(prompts=1), dict.fromkeys(("old", "new"), SystemSource(tiny_system()))
    items = Items(tmp_path / "items.jsonl")
    ((prompt, repeat, orders),) = timing.schedule(given)
    hours = count(0, 3600)
    with monkeypatch.context() as slow:
        # the clock runs for hours in which nobody works
        slow.setattr(generate, "perf_counter", lambda: next(hours))
        speak_prompt(given, items, tmp_path, prompt, repeat, orders, systems)
    # random weights may go on to the end of their rope, but nobody gave up
    assert items.get("old", "000", 0).error == ""
    worked = count(0, 200)
    with monkeypatch.context() as slow:
        slow.setattr(generate, "process_time", lambda: next(worked))
        items = Items(tmp_path / "other.jsonl")
        speak_prompt(given, items, tmp_path, prompt, repeat, orders, systems)
    item = items.get("new", "000", 0)
    assert item.failure == UNMEASURED and not item.failed
    items.add("new", "000", 0, {"errors": 9, "words": 9})
    analysis = compare.analyse(items, given)
    assert analysis.values["new"]["wer"] is None
    assert analysis.failures["new"].count == analysis.failures["new"].items == 0
    assert timing.summary(given, items, on_cpu=True).unmeasured == 2
    speak_prompt(given, items, tmp_path, prompt, repeat, orders, systems)
    assert items.get("new", "000", 0).error == ""


def test_a_long_item_is_timed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "CHEAP", 0.0)
    given, items = plan(prompts=1), Items(tmp_path / "items.jsonl")
    ((prompt, repeat, orders),) = timing.schedule(given)
    systems = dict.fromkeys(("old", "new"), SystemSource(tiny_system()))
    speak_prompt(given, items, tmp_path, prompt, repeat, orders, systems)
    row = items.get("old", "000", 0).row
    assert row["rounds"] == 1 and row["processor"] > 0 and "load" in row
    assert json.loads(json.dumps(row))["rtf"] > 0
