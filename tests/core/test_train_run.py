"""Runs: the same losses after a kill, refusals, the guard against numbers that are not finite."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tiny_corpus import ABOUT, rows, write_recipe

from wishbone.core.contract.errors import ConfigError, DataError, WishboneError

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.data.tokens import read_tokens, write_tokens  # noqa: E402
from wishbone.core.train import loop  # noqa: E402
from wishbone.core.train.recipe import Recipe, read_recipe  # noqa: E402
from wishbone.core.train.time_budget import TimeBudget  # noqa: E402
from wishbone.core.weights.tensor_files import read_tensors  # noqa: E402


class Killed(BaseException):
    pass


def losses(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(entry["step"], entry.get("loss", entry.get("held_out"))) for entry in entries]


def kill_before(monkeypatch, step):
    """Die at the start of a step, in the middle of everything, like a kill does."""
    whole = loop.Trainer._train_step

    def fatal(self):
        if self.step == step:
            raise Killed
        whole(self)

    monkeypatch.setattr(loop.Trainer, "_train_step", fatal)
    return lambda: monkeypatch.setattr(loop.Trainer, "_train_step", whole)


@pytest.mark.parametrize("options", [[], ["muon", "precision=fp32"], ["muon", "precision=bf16"]])
def test_a_killed_run_goes_on_with_the_same_losses(tmp_path, monkeypatch, options):
    words = [f"optimizer={options[0]}", *options[1:]] if options else []
    recipe = str(write_recipe(tmp_path, dropout=0.2))
    assert main([recipe, f"out={tmp_path}/whole", *words]) == 0
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([recipe, f"out={tmp_path}/cut", *words])
    heal()
    # the log is ahead of the checkpoint of step 4, and a write was cut short
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert main([recipe, f"out={tmp_path}/cut", *words]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ours, theirs = (
        read_tensors(tmp_path / run / "export" / "model.safetensors") for run in ("cut", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_comparison_sees_a_run_that_resumes_wrongly(tmp_path, monkeypatch):
    recipe = str(write_recipe(tmp_path, dropout=0.2))
    main([recipe, f"out={tmp_path}/whole"])
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([recipe, f"out={tmp_path}/cut"])
    heal()
    monkeypatch.setattr("wishbone.core.train.run_folder.load_optimizer", lambda *_: None)
    main([recipe, f"out={tmp_path}/cut"])
    assert losses(tmp_path / "cut") != losses(tmp_path / "whole")


def test_a_log_line_covers_the_same_steps_after_a_resume(tmp_path, monkeypatch):
    recipe = str(write_recipe(tmp_path))
    main([recipe, f"out={tmp_path}/whole", "log_every=3"])
    heal = kill_before(monkeypatch, 4)
    with pytest.raises(Killed):
        main([recipe, f"out={tmp_path}/cut", "log_every=3"])
    heal()
    main([recipe, f"out={tmp_path}/cut", "log_every=3"])
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_it_learns_and_exports_a_checkpoint_with_its_origin(tmp_path):
    recipe = str(write_recipe(tmp_path))
    main([recipe, "steps=40", "evaluate_every=10"])
    run = tmp_path / "run"
    measured = [loss for step, loss in losses(run) if step % 10 == 0]
    assert measured[-1] < measured[0] - 0.2
    origin = json.loads((run / "export" / "provenance.json").read_text())
    assert origin["notes"]["steps"] == 40 and origin["data"]
    assert origin["notes"]["held_out_loss"] == pytest.approx(losses(run)[-1][1], abs=1e-5)
    from wishbone.core.system.build import build_model
    from wishbone.core.system.spec import read

    model = build_model(read(run / "export"))
    saved = read_tensors(run / "export" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_a_run_with_another_recipe_is_not_overwritten(tmp_path):
    recipe = str(write_recipe(tmp_path))
    main([recipe, "steps=2"])
    log = (tmp_path / "run" / "log.jsonl").read_text()
    with pytest.raises(ConfigError, match="learning_rate, steps") as caught:
        main([recipe, "steps=4", "learning_rate=0.1"])
    assert "--change" in caught.value.do
    with pytest.raises(ConfigError, match=r"system\.backbone\.width"):
        main([recipe, "steps=2", "system.backbone.width=64"])
    assert (tmp_path / "run" / "log.jsonl").read_text() == log
    assert main([recipe, "--change", "steps=4", "evaluate_every=2"]) == 0
    assert (tmp_path / "run" / "log.jsonl").read_text().startswith(log)


def exported(folder):
    return json.loads((folder / "provenance.json").read_text())["notes"]["steps"]


def test_an_older_export_of_the_same_run_is_replaced(tmp_path, capsys):
    recipe, run = str(write_recipe(tmp_path)), tmp_path / "run"
    main([recipe, "steps=2"])
    before = read_tensors(run / "export" / "model.safetensors")
    main([recipe, "--change", "steps=4"])
    after = read_tensors(run / "export" / "model.safetensors")
    assert exported(run / "export") == 4
    assert not all(torch.equal(after[name], before[name]) for name in after)
    assert sorted(p.name for p in run.glob("*export*")) == ["export"]
    assert not list(run.glob(".export*"))
    capsys.readouterr()
    assert main([recipe, "steps=4"]) == 0
    assert "export exists already" in capsys.readouterr().err


def test_an_export_of_another_origin_stays(tmp_path):
    recipe, run = str(write_recipe(tmp_path)), tmp_path / "run"
    main([recipe, "steps=2"])
    path = run / "export" / "provenance.json"
    said = json.loads(path.read_text())
    said["notes"]["recipe"]["out"] = "elsewhere"
    path.write_text(json.dumps(said))
    main([recipe, "--change", "steps=4"])
    assert exported(run / "export") == 2
    assert exported(run / "export-00000004") == 4


def test_what_a_killed_process_left_is_removed(tmp_path):
    recipe, folder = str(write_recipe(tmp_path)), tmp_path / "run" / "checkpoints"
    main([recipe, "steps=2"])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (folder / f".step-00000009.{pid}").mkdir()
    main([recipe, "steps=2"])
    assert [p.name for p in folder.glob(".step-*")] == [f".step-00000009.{os.getpid()}"]


def test_samples_are_spoken_at_checkpoints_and_change_no_loss(tmp_path):
    pytest.importorskip("gruut", reason="pip install gruut for the phoneme tokenizer")
    recipe = str(write_recipe(tmp_path, dropout=0.2))
    main([recipe, f"out={tmp_path}/silent"])
    main([recipe, "samples=[We go there.,And back.]"])
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == [f"step-0000000{step}-{n}.wav" for step in (2, 4, 6) for n in (0, 1)]
    from wishbone.core.audio import files

    assert files.read(tmp_path / "run" / "samples" / names[0]).seconds > 0.1
    assert losses(tmp_path / "run") == losses(tmp_path / "silent")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    recipe = str(write_recipe(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no training run"):
        main([recipe])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_mistakes_in_a_recipe_are_named(tmp_path):
    recipe = str(write_recipe(tmp_path))
    for words, said in (
        (["learning_rat=1"], "learning_rat"),
        (["steps=many"], "steps"),
        (["schedule=linear"], "recipe.schedule: there is no 'linear'"),
        (["system.backbone.widht=3"], "widht"),
        (["ema=1.5"], "ema"),
        (["shard=half"], "shard: there is no 'half'"),
        (["optimizer=sgd"], "optimizer: there is no 'sgd'"),
        (["optimizer=muon", "shard=full"], "Muon needs whole matrices"),
        (["accumulate=0"], "accumulate"),
    ):
        with pytest.raises(ConfigError, match=said):
            main([recipe, *words])
    with pytest.raises(DataError, match="is not here"):
        main([recipe, f"data={tmp_path}/nowhere"])


def test_tokens_of_another_system_are_refused(tmp_path):
    recipe = str(write_recipe(tmp_path))
    with pytest.raises(DataError, match="tokenizer is phonemes, the system's characters"):
        main([recipe, "system.tokenizer.name=characters"])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("codec", "other/codec", "codec is other/codec"), ("rate", 50.0, "rate is 50.0")],
)
def test_tokens_of_another_codec_are_refused(tmp_path, key, value, said):
    recipe = str(write_recipe(tmp_path))
    file = tmp_path / "tokens" / "000.parquet"
    write_tokens(file, rows(60), ABOUT | {key: value})
    with pytest.raises(DataError, match=said):
        main([recipe])
    assert not (tmp_path / "run").exists()
    # also where nothing but the loss is measured on
    write_recipe(tmp_path)
    write_tokens(tmp_path / "held" / "000.parquet", rows(5, 1, "held {}"), ABOUT | {key: value})
    with pytest.raises(DataError, match=said):
        main([recipe, f"held_out={tmp_path}/held"])
    # and what a file does not say is no difference
    write_tokens(file, rows(60), {k: v for k, v in ABOUT.items() if k != key})
    assert main([recipe, "steps=1"]) == 0


def test_a_loss_that_is_not_finite_stops_and_names_the_utterances(tmp_path, monkeypatch):
    recipe = str(write_recipe(tmp_path))
    whole = loop.Trainer._loss
    seen = []

    def poisoned(self, batch):
        loss, count = whole(self, batch)
        seen.append([self.training.ids[row] for row in batch.rows])
        return (loss * float("nan") if self.step == 3 else loss), count

    monkeypatch.setattr(loop.Trainer, "_loss", poisoned)
    with pytest.raises(WishboneError, match="step 3 is not finite") as caught:
        main([recipe])
    assert seen[3][0] in caught.value.where
    run = tmp_path / "run"
    noted = json.loads((run / "not-finite-00000003.json").read_text())
    assert noted["utterances"] == seen[3]
    weights = read_tensors(run / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not (run / "export").exists()


def test_time_that_is_up_ends_in_an_export(tmp_path, capsys):
    recipe = str(write_recipe(tmp_path))
    assert main([recipe, "max_minutes=0.0000001", "checkpoint_every=0"]) == 0
    run = tmp_path / "run"
    assert exported(run / "export") == 1
    assert "enough for 1 of at most 6 steps" in capsys.readouterr().err
    # enough time changes nothing, and the time is part of the recipe
    assert main([recipe, f"out={tmp_path}/long", "max_minutes=60"]) == 0
    assert exported(tmp_path / "long" / "export") == 6
    with pytest.raises(ConfigError, match="max_minutes"):
        main([recipe, "checkpoint_every=0"])


def test_a_fitted_schedule_ends_with_the_run_and_survives_a_kill(tmp_path, monkeypatch):
    recipe = str(write_recipe(tmp_path, dropout=0.2))
    words = ["max_minutes=5", "steps=1000", "schedule=cosine"]
    # the clock decides nothing here: after the first step it is five more
    monkeypatch.setattr(TimeBudget, "fitting_steps", lambda self, step, elapsed, share: step + 5)
    monkeypatch.setattr(TimeBudget, "due", lambda self, elapsed: self.open and elapsed > 0)
    assert main([recipe, f"out={tmp_path}/whole", *words]) == 0
    rates = [json.loads(line).get("rate") for line in
             (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]  # fmt: skip
    rates = [rate for rate in rates if rate is not None]
    assert len(rates) == 6 and rates[-1] < 0.2 * max(rates)
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([recipe, f"out={tmp_path}/cut", *words])
    heal()
    monkeypatch.setattr(TimeBudget, "fitting_steps", lambda self, *_: 99)
    assert main([recipe, f"out={tmp_path}/cut", *words]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_steps_fit_into_the_time_with_what_is_measured_on(tmp_path):
    budget = TimeBudget(Recipe(max_minutes=10, steps=1000, evaluate_every=100), tmp_path)
    for seconds in (30.0, 5.0, *[1.0] * 10):
        assert not budget.due(45)
        budget.time(seconds)
    assert budget.due(45)
    # 0.97 * 600 - 45 - 60 seconds, at 1 second a step and 60 seconds every 100 steps
    assert budget.fitting_steps(12, 45, 180) == 12 + int(477 / 1.6)
    fit = budget.fix(12, 310, write=True)
    assert (budget.recipe_at(11).steps, budget.recipe_at(12).steps) == (1000, 310)
    assert fit.warmup_steps == 31
    again = TimeBudget(budget.recipe, tmp_path)
    again.load()
    assert again.fit == fit


def test_a_warm_up_longer_than_the_run_is_said(tmp_path, capsys):
    main([str(write_recipe(tmp_path)), "steps=1", "warmup_steps=2"])
    assert "warm-up of 2 steps is no shorter than the run of 1" in capsys.readouterr().err


def test_no_text_is_in_both_training_and_held_out(tmp_path, capsys):
    recipe = str(write_recipe(tmp_path))
    main([recipe, "steps=1"])
    said = capsys.readouterr().err
    training = int(said.split(" utterances")[0].split()[-1])
    held_out = int(said.split(" held out")[0].split()[-1])
    assert held_out > 0
    assert training + held_out == len(read_tokens(tmp_path / "tokens"))
    with pytest.raises(DataError, match="0 utterances"):
        main([recipe, f"held_out={tmp_path}/tokens", f"out={tmp_path}/other"])


def test_data_without_an_utterance_says_so(tmp_path):
    recipe = str(write_recipe(tmp_path))
    write_tokens(tmp_path / "none" / "a.parquet", [], ABOUT)
    with pytest.raises(DataError, match="The data is empty"):
        main([recipe, f"data={tmp_path}/none"])
    with pytest.raises(DataError, match="all 60 are held out"):
        main([recipe, f"held_out={tmp_path}/tokens"])


def test_a_run_killed_before_its_first_rename_begins_again(tmp_path):
    recipe = str(write_recipe(tmp_path))
    code = (
        "import os; from wishbone.core.contract import atomic\n"
        "open(atomic._beside(atomic.Path({!r})), 'w'); os._exit(9)"
    )
    (tmp_path / "run").mkdir()
    subprocess.run(
        [sys.executable, "-c", code.format(str(tmp_path / "run" / "config.yaml"))], check=False
    )
    assert len(list((tmp_path / "run").iterdir())) == 1
    assert main([recipe, "steps=1"]) == 0
    assert not list((tmp_path / "run").glob(".*"))


def test_the_base_of_a_system_by_name_is_replaced_by_the_last_word():
    words = ["system=quickstart-rwkv7", "system.base=text-rwkv7"]
    words += ["system.base='quickstart-transformer'"]
    _, system = read_recipe("quickstart", words)
    assert system["backbone"]["name"] == "transformer"


def test_a_checkpoint_that_a_kill_kept_from_being_removed_goes_with_the_next_start(tmp_path):
    recipe = str(write_recipe(tmp_path))
    words = [recipe, "steps=3", "checkpoint_every=1", "evaluate_every=0"]
    assert main(words) == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    last_two = sorted(path.name for path in checkpoints.iterdir())
    assert last_two == ["step-00000002", "step-00000003"]
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000001")
    assert main(words) == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == last_two
