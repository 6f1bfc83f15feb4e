"""A stage of a repeated recipe that is done: what makes it another one, and what does not."""

from pathlib import Path

import pytest
from tiny_corpus import write_recipe

from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.train import repeat
from wishbone.core.train.recipe import Recipe, as_saved, read_recipe
from wishbone.core.train.run import run
from wishbone.core.train.truncated_bptt import SegmentStreams

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


def test_of_all_epochs_the_orders_of_two_are_remembered():
    streams = SegmentStreams(range(5), None, rows=1, segment=4, seed=3)
    orders = [streams._order(epoch).tolist() for epoch in range(6)]
    assert sorted(streams._orders) == [4, 5] and len({tuple(order) for order in orders}) > 3
    assert all(sorted(order) == list(range(5)) for order in orders)
    # an epoch that was forgotten has the same order again
    assert streams._order(0).tolist() == orders[0]


def test_a_run_is_not_changed_by_who_does_not_ask_for_it(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    recipe = str(write_recipe(tmp_path))
    assert run(recipe, ["steps=1"]) == 0
    with pytest.raises(ConfigError, match="other values of: steps"):
        run(recipe, ["steps=2"])
    assert run(recipe, ["steps=2"], change=True) == 0


@pytest.mark.parametrize("done, begun", [((), [1, 2, 3]), ((1,), [2, 3]), ((1, 2), [3])])
def test_stages_that_are_done_are_passed_over_and_the_others_follow(
    tmp_path, monkeypatch, done, begun
):
    out, ran = tmp_path / "run", []
    stages = [(f"stage {n}", out.with_name(f"run-stage-{n}.yaml"), {"steps": n}) for n in (1, 2, 3)]
    exports = [*(file.with_suffix("") / "export" for _, file, _ in stages[:2]), out / "export"]

    def leave(number):
        exports[number - 1].mkdir(parents=True)
        (exports[number - 1] / "config.yaml").write_text("")

    def train(file, others, change):
        ran.append(int(Path(file).stem[-1]))
        leave(ran[-1])
        return 0

    for number in done:
        leave(number)
    monkeypatch.setattr(repeat, "recipes", lambda name, system, folder: iter(stages))
    monkeypatch.setattr(repeat, "_read", lambda recipe, words: RECIPE)
    monkeypatch.setattr(repeat, "_need_same", lambda *_: None)
    monkeypatch.setattr(repeat, "run", train)
    assert repeat.repeat("bundled", ["system=mine", f"out={out}"]) == 0
    assert ran == begun


def test_data_that_is_elsewhere_is_the_first_of_its_name_among_the_bundled(tmp_path, monkeypatch):
    for name in ("b", "a", "c"):
        (tmp_path / "tokens" / name).mkdir(parents=True)
        (tmp_path / "tokens" / name / "train.parquet").touch()
    monkeypatch.setattr(repeat, "bundled", lambda: tmp_path)
    assert repeat._here("gone/train.parquet", "stage 1") == "tokens/a/train.parquet"
    with pytest.raises(DataError, match="The data of stage 1 is not here"):
        repeat._here("gone/other.parquet", "stage 1")


def test_a_system_beside_its_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "mine.yaml").write_text("base: tiny-rwkv7\nlayout: {min_code_ratio: 1.5}\n")
    (folder / "recipe.yaml").write_text("system: {base: mine.yaml}\ndata: d\n")
    monkeypatch.chdir(tmp_path)
    _, system = read_recipe("deep/recipe.yaml")
    assert system["layout"]["min_code_ratio"] == 1.5
