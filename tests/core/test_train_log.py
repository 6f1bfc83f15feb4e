"""What a training prints and logs, line by line, by a clock of the test's own."""

import json
import math
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_corpus import write_recipe
from torch import nn

from wishbone.core.cli.train import main
from wishbone.core.train import logger as logger_module
from wishbone.core.train import loop
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.logger import Logger, ReferenceCurve
from wishbone.core.train.loop import Tally
from wishbone.core.train.recipe import Recipe
from wishbone.core.train.run import export
from wishbone.core.train.run_folder import RunFolder

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


class Recorded:
    """A run's folder that remembers what is logged."""

    def __init__(self, folder):
        self.folder, self.entries = folder, []

    def log(self, entry):
        self.entries.append(entry)

    def begun_with(self, field):
        return "hash"


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(logger_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_line_of_the_log_has_the_speed_and_the_time_that_is_left(tmp_path, clock, capsys):
    run = Recorded(tmp_path)
    logger = Logger(Recipe(steps=100), run, ALONE, 10)
    clock.now += 40
    tally = Tally(loss=50.0, count=20.0, positions=1234, seconds=8.0, parts={"norm": 0.256})
    logger.training(30, tally, 1.5e-3, 41.2345)
    assert run.entries == [{
        "step": 30, "loss": 2.5, "targets": 20, "rate": 1.5e-3, "norm": 0.256,
        "positions_per_second": 154.2, "elapsed": 41.23,
    }]  # fmt: skip
    assert capsys.readouterr().err == (
        "step 30/100  loss 2.5000  rate 1.50e-03  norm 0.26  154 positions/s  0:02:20 left\n"
    )
    logger.steps = None
    logger.training(30, Tally(), 0.0, 0.0)
    told = capsys.readouterr().err
    assert "step 30/?" in told and "time left not known yet" in told and "norm 0.00" in told
    # the first line of a call that goes on comes before a step was taken
    Logger(Recipe(steps=100), run, ALONE, 30).training(30, tally, 1e-3, 1.0)
    assert "0:00:00 left" in capsys.readouterr().err


def test_a_process_that_does_not_lead_is_silent(tmp_path, capsys):
    run = Recorded(tmp_path)
    logger = Logger(Recipe(), run, ProcessGroup(1, 2, torch.device("cpu")), 0)
    logger.training(1, Tally(), 0.1, 1.0)
    logger.held_out(1, 2.0)
    logger.saved(tmp_path)
    assert run.entries == [] and capsys.readouterr().err == ""


def test_a_held_out_loss_stands_beside_another_where_there_is_one(tmp_path, capsys):
    run = Recorded(tmp_path)
    logger = Logger(Recipe(steps=9), run, ALONE, 0)
    logger.held_out(3, 2.0)
    logger.held_out(4, math.nan)
    assert run.entries == [{"step": 3, "held_out": 2.0}]
    logger._reference = ReferenceCurve({1: 3.0, 5: 1.0})
    logger.held_out(2, 2.0)
    assert run.entries[1:] == [{"step": 2, "held_out": 2.0, "reference": 2.5}]
    assert capsys.readouterr().err.splitlines() == [
        "step 3/9  held-out loss 2.0000",
        "step 2/9  held-out loss 2.0000  reference 2.5000 (-0.5000)",
    ]


@pytest.mark.parametrize(
    ("every", "minutes", "step", "later", "due"),
    [
        (5, 0, 10, 1e9, True), (5, 0, 11, 1e9, False), (0, 0, 10, 1e9, False),
        (0, 2, 10, 120.0, False), (0, 2, 10, 120.1, True), (5, 2, 10, 0.0, True),
    ],
)  # fmt: skip
def test_a_checkpoint_is_due_by_steps_or_by_minutes(
    tmp_path, clock, capsys, every, minutes, step, later, due
):
    recipe = Recipe(checkpoint_every=every, checkpoint_minutes=minutes)
    logger = Logger(recipe, Recorded(tmp_path), ALONE, 0)
    clock.now += later
    assert logger.checkpoint_due(step) is due
    logger.saved(tmp_path)
    assert not logger.checkpoint_due(11) and "wrote" in capsys.readouterr().err


def test_a_sample_that_fails_stops_neither_the_others_nor_the_training(
    tmp_path, monkeypatch, capsys
):
    spoken = []

    def speak(weights, system, sentence, target):
        if sentence == "bad":
            raise ZeroDivisionError("why")
        spoken.append(target.name)

    monkeypatch.setattr(logger_module, "speak", speak)
    recipe = Recipe(samples=["bad", "good"])
    Logger(recipe, Recorded(tmp_path), ALONE, 0).samples(tmp_path / "step-1", {}, {})
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "no sample: ZeroDivisionError: why" and spoken == ["step-1-1.wav"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.9, "0:00:00"), (59.9, "0:00:59"), (61, "0:01:01"), (7322, "2:02:02")]
)
def test_time_is_told_as_on_a_clock(seconds, told):
    assert logger_module._clock(seconds) == told


def test_speed_is_positions_over_the_seconds_of_steps(tmp_path, monkeypatch):
    """By a clock that goes on by half a second each time that somebody looks at it."""
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    ticks = count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 500 + next(ticks) / 2))
    run = tmp_path / "run"
    assert main([str(write_recipe(tmp_path)), "steps=3", "log_every=1", "evaluate_every=0"]) == 0
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    notes = json.loads((run / "export" / "provenance.json").read_text())["notes"]
    # between two looks of a step there is no other
    assert sum(row["positions_per_second"] for row in rows) == 2 * notes["positions"]
    # a look before a step, two in it, one behind it for its time and one for all of it
    assert [row["elapsed"] for row in rows] == [2.5, 5.0, 7.5]
    assert notes["minutes"] == round(7.5 / 60, 2)


def test_the_origin_of_an_export_has_rounded_figures(tmp_path):
    training = type("Corpus", (), {"seconds": np.array([3600.0, 70_000.0]), "instruct": None,
                                   "__len__": lambda self: 2})()  # fmt: skip
    trainer = SimpleNamespace(
        run=RunFolder(tmp_path), recipe=Recipe(out="x", seed=5), step=7, positions=99,
        elapsed=100.0,
        system={"backbone": {"weights": "w", "width": 3}, "head": {}}, model=nn.Linear(2, 3),
        training=training, objective=SimpleNamespace(about=lambda: {"a": 1}),
    )  # fmt: skip
    trainer.model.bias.requires_grad_(False)
    folder = export(trainer, {"w": torch.ones(1)}, "hash", 2.5)
    origin = json.loads((folder / "provenance.json").read_text())
    notes = origin["notes"]
    assert folder == tmp_path / "export" and origin["data"] == "hash"
    assert origin["seeds"] == {"train": 5}
    assert (notes["hours"], notes["minutes"], notes["utterances"]) == (20.44, 1.67, 2)
    assert (notes["steps"], notes["positions"], notes["positions_before"]) == (7, 99, 0)
    assert (notes["held_out_loss"], notes["trained_parameters"]) == (2.5, 6)
    assert notes["objective"] == {"a": 1} and "system" not in notes["recipe"]
    config = (folder / "config.yaml").read_text()
    # what the part began with is not laid over what it has now
    assert "weights: ." in config and "weights: w" not in config and "width: 3" in config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
