"""An A/B's prompts in parts: the same items as by one process, whoever did what and was killed."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from test_ab_parts import plan
from tiny_system import tiny_system

from wishbone.core.cli import ab as command
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.metric import AudioMetric, MetricInfo
from wishbone.core.evaluate import ab, prompt_step
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.prompt_step import PromptStep, gather, known, part_file
from wishbone.core.evaluate.sources import speak_missing
from wishbone.core.evaluate.sources.source import SystemSource
from wishbone.core.scale import part_lock

TIMES = (
    "made",
    "processor",
    "rtf",
    "first_audio",
    "token_rate",
    "stall",
    "load",
    "others",
    "rounds",
)
judged: list[str] = []


class Loudness(AudioMetric):
    """Counts what it judges."""

    info = MetricInfo("loudness", "loudness", "", "higher", 1.0, about="how loud a clip is")

    def score(self, clip):
        judged.append(clip.key)
        return {"loudness": round(float(np.sqrt(np.mean(clip.audio**2))), 6)}

    def signature(self):
        return "loudness|1"

    def failed(self, text):
        return {"loudness": 0.0}


@pytest.fixture
def given(register, monkeypatch):
    """Two arms that are the same tiny system, six prompts, two repeats, a metric of our own."""
    judged.clear()
    register("metric", "loudness", "test_ab_in_parts:Loudness")
    system = tiny_system()

    class Ready(speak_missing.Speakers):
        def __init__(self, plan, items):
            self.systems, self.sources = (
                {},
                {checkpoint.key: SystemSource(system) for checkpoint in plan.checkpoints},
            )

    monkeypatch.setattr(prompt_step, "Speakers", Ready)
    monkeypatch.setattr(generate, "PATIENCE", 1000.0)
    return replace(plan(prompts=6, seeds=2), metrics={"loudness": Loudness.info}, rounds=1)


def facts(items, given):
    """All that is no time, of every item."""
    rows = {}
    for checkpoint in given.checkpoints:
        for item in items.of(checkpoint.key):
            rows[item.key] = {k: v for k, v in item.row.items() if k not in TIMES}
    return rows


def recordings(out):
    return {path.name: path.read_bytes() for path in (out / "audio").rglob("*.flac")}


def test_any_number_of_parts_gives_the_items_of_one(given, tmp_path):
    alone = PromptStep(given, tmp_path / "one")
    assert alone.unfinished() == 6
    done = list(alone.run())
    assert [one.name for one in done] == [prompt.key for prompt in given.prompts]
    assert all(one.items == 4 and one.seconds > 0 for one in done) and alone.unfinished() == 0
    shared = PromptStep(given, tmp_path / "three")
    for rank in (2, 0, 1):
        assert shared.unfinished(rank, 3) == 2
        assert len(list(shared.run(None, rank, 3))) == 2
    expected = facts(known(given, tmp_path / "one"), given)
    assert facts(known(given, tmp_path / "three"), given) == expected and len(expected) == 24
    assert recordings(tmp_path / "three") == recordings(tmp_path / "one")
    # what is done is not done again, whoever asks
    judged.clear()
    assert list(PromptStep(given, tmp_path / "three").run(None, 0, 2)) == [] and judged == []


def test_the_run_gathers_what_parts_know(given, tmp_path):
    list(PromptStep(given, tmp_path).run())
    items = Items(tmp_path / "items.jsonl")
    gather(items, given, tmp_path)
    assert facts(Items(items.path), given) == facts(known(given, tmp_path), given)
    size = items.path.stat().st_size
    gather(items, given, tmp_path)
    assert items.path.stat().st_size == size


def test_a_part_that_was_killed_goes_on(given, tmp_path):
    step = PromptStep(given, tmp_path)
    running = step.run(None, 0, 1)
    next(running)
    running.close()
    path = part_file(tmp_path, 0, 1)
    whole = path.read_bytes()
    # the kill cut the last line
    path.write_bytes(whole[:-20])
    left = step.unfinished()
    assert 0 < left < 6
    spoken = [done.name for done in step.run(None, 0, 1)]
    assert len(spoken) == left and step.unfinished() == 0


def test_what_was_spoken_and_not_judged_is_missing(given, tmp_path):
    step = PromptStep(given, tmp_path)
    list(step.run())
    rows = [json.loads(line) for line in part_file(tmp_path, 0, 1).read_text().splitlines()]
    part_file(tmp_path, 0, 1).write_text(
        "".join(json.dumps(row) + "\n" for row in rows if not row.get("judged"))
    )
    assert step.unfinished() == 6
    before = recordings(tmp_path)
    list(step.run())
    assert step.unfinished() == 0 and recordings(tmp_path) == before


def test_an_item_of_another_text_is_none_of_this_run(given, tmp_path):
    list(PromptStep(given, tmp_path).run())
    other = [replace(given.prompts[0], text="another sentence"), *given.prompts[1:]]
    changed = replace(given, prompts=other)
    step = PromptStep(changed, tmp_path)
    assert step.unfinished() == 1
    assert [done.name for done in step.run()] == ["000"]
    items = Items(tmp_path / "items.jsonl")
    gather(items, changed, tmp_path)
    assert items.get("old", "000", 0).text == "another sentence"


def test_what_the_run_itself_knows_is_not_replaced(given, tmp_path):
    list(PromptStep(given, tmp_path).run())
    seed = given.seed_of(given.prompts[0], 0)
    mine = {"text": "sentence 0", "seed": seed, "failure": "", "judged": {"loudness": "newer"}}
    items = Items(tmp_path / "items.jsonl")
    items.add("old", "000", 0, {**mine, "loudness": 7.0})
    gather(items, given, tmp_path)
    assert items.get("old", "000", 0).row["loudness"] == 7.0


def test_two_processes_at_one_part_are_told_apart(given, tmp_path, monkeypatch):
    monkeypatch.setattr(part_lock, "PATIENCE", 0.1)
    path = part_file(tmp_path, 0, 2)
    path.parent.mkdir(parents=True)
    held, free = threading.Event(), threading.Event()

    def hold():
        with FileLock(f"{path}.lock"):
            held.set()
            free.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    try:
        with pytest.raises(UsageError, match="Part 1 of 2 is being done by another process"):
            list(PromptStep(given, tmp_path).run(None, 0, 2))
    finally:
        free.set()
        other.join()


def test_the_command_does_one_part_or_all_and_then_the_report(given, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("wishbone.core.evaluate.gate.hold", lambda result, limits: None)
    monkeypatch.setattr("wishbone.core.evaluate.experiment.plan.read_plan", lambda *a, **k: given)
    monkeypatch.setattr(ab, "prompt_step", lambda plan, out, allow, threads: PromptStep(plan, out))
    monkeypatch.setattr(ab, "run", lambda *a, **k: calls.append("report"))
    out = tmp_path / "run"
    for part in ("1/2", "2/2"):
        assert command.main(["mine.yaml", "--out", str(out), "--part", part]) == 0
    printed = capsys.readouterr().err
    assert "part 1 of 2: 3 prompts, 12 recordings; 3 prompts are left to other parts" in printed
    assert "part 2 of 2: 3 prompts, 12 recordings; all prompts are there" in printed
    assert calls == []
    assert command.main(["mine.yaml", "--out", str(out)]) == 0 and calls == ["report"]
