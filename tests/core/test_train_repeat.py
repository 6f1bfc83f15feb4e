"""A stage of a repeated recipe that is done: what makes it another one, and what does not."""

from pathlib import Path

import pytest

from wishbone.core.contract.errors import ConfigError
from wishbone.core.train import repeat
from wishbone.core.train.recipe import Recipe, as_saved

RECIPE = Recipe(system={"backbone": {"name": "x", "width": 3}}, data="d", out="runs/x")


def need_same(monkeypatch, before=None, backbone=None, change=False):
    recorded = {**as_saved(RECIPE), **(before or {})}
    stages = [{"recipe": {"seed": 99}}, {"recipe": recorded}]
    monkeypatch.setattr(repeat, "trainings", lambda folder: stages if before is not None else [])
    here = {"name": "x", "width": 3} if backbone is None else backbone
    monkeypatch.setattr(repeat, "read", lambda name: {"backbone": here})
    repeat._need_same(RECIPE, Path("there"), change)


def test_the_same_stage_is_the_same_wherever_it_ran(monkeypatch):
    need_same(monkeypatch, {})
    # places and what changes no loss may differ
    need_same(monkeypatch, {"out": "elsewhere", "weights": "w", "system": 5, "log_every": 1})
    # nothing is recorded of some
    need_same(monkeypatch)


@pytest.mark.parametrize(
    ("before", "backbone", "named"),
    [
        ({"seed": 7}, None, "seed"), ({"ema": 0.5, "seed": 7}, None, "ema, seed"),
        ({}, {"name": "x", "width": 4}, "backbone"),
        ({"seed": 7}, {"name": "y", "width": 3}, "seed, backbone"), ({"old": 1}, None, "old"),
    ],
)  # fmt: skip
def test_another_stage_is_named_and_may_be_wanted(monkeypatch, before, backbone, named):
    with pytest.raises(ConfigError) as caught:
        need_same(monkeypatch, before, backbone)
    told = sorted(caught.value.what.removesuffix(".").split("another ")[1].split(", "))
    assert told == sorted(named.split(", ")) and caught.value.where == "there"
    need_same(monkeypatch, before, backbone, change=True)
