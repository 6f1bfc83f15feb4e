"""Training the arms of an A/B: what is missing, in order, once, and by one process at a time."""

import json
from types import SimpleNamespace

import pytest
from tiny_corpus import write_recipe

from wishbone.core.cli import ab as command
from wishbone.core.contract.errors import STOPPED, ConfigError, UsageError
from wishbone.core.evaluate import ab
from wishbone.core.evaluate.experiment import config_diff, sweep, training_diff
from wishbone.core.evaluate.experiment.arms import Training
from wishbone.core.evaluate.experiment.plan import read_plan

EXPERIMENT = """
factors:
  width:
    narrow: {{system: {{backbone: {{ffn_width: 32}}}}}}
    wide: {{}}
  layout:
    first: {{system: {{layout: {{form: unistream, pace: words, bistream_probability: 0.0}}}}}}
    words: {{system: {{layout: {{form: bistream, bistream_probability: 1.0}}}}}}
train:
  base: recipe
  set: {{steps: {steps}, checkpoint_every: 0, evaluate_every: 0}}
  seeds: [1, 2]
vary: [backbone.ffn_width, layout]
prompts: prompts.txt
"""


@pytest.fixture
def calls(monkeypatch):
    """Trainings that leave an export and take no time, in the order in which they were begun."""
    made = []

    def run(recipe, overrides):
        folder = next(word for word in overrides if word.startswith("out="))
        made.append(folder.rsplit("/", 1)[1].strip('"'))
        leave(json.loads(folder.removeprefix("out=")))
        return 0

    monkeypatch.setattr(sweep, "run", run)
    return made


def leave(folder):
    from pathlib import Path

    export = Path(folder) / "export"
    export.mkdir(parents=True)
    (export / "config.yaml").write_text("")


def wanted(tmp_path, *names):
    return [Training(n, "recipe", [f'out="{tmp_path / n}"'], tmp_path / n) for n in names]


def test_what_is_missing_is_trained_in_order_and_once(tmp_path, calls):
    trainings = wanted(tmp_path, "r-u.1", "r-w.1", "t-u.1", "t-w.1")
    leave(tmp_path / "r-w.1")
    assert sweep.train(trainings, "t-*")
    assert calls == ["t-u.1", "t-w.1"]
    assert sweep.train(trainings)
    assert calls == ["t-u.1", "t-w.1", "r-u.1"]
    with pytest.raises(UsageError, match="'x-'"):
        sweep.train(trainings, "x-")
    with pytest.raises(UsageError, match="not its own trainings"):
        sweep.train([])


def test_what_another_process_trains_is_left_to_it(tmp_path, calls):
    trainings = wanted(tmp_path, "r-u.1", "r-w.1")
    with sweep.locked(trainings[0].folder) as mine:
        assert mine
        assert not sweep.train(trainings)
    assert calls == ["r-w.1"]
    # the lock is gone with who held it
    assert sweep.train(trainings)
    assert calls == ["r-w.1", "r-u.1"]


def test_parts_train_every_so_manieth_and_say_what_is_missing(tmp_path, calls):
    trainings = wanted(tmp_path, "a", "b", "c", "d", "e")
    step = sweep.training_step(trainings, "[a-d]")
    assert [done.name for done in step.run(None, 1, 3)] == ["b"]
    assert [step.unfinished(rank, 3) for rank in range(3)] == [2, 0, 1]
    assert [done.name for done in step.run(None, 0, 3)] == ["a", "d"]
    assert step.unfinished() == 1 and calls == ["b", "a", "d"]


def test_a_part_with_accelerators_of_its_own_trains_under_torchrun(tmp_path, calls, monkeypatch):
    words = []
    monkeypatch.setenv("WISHBONE_GPUS", "2")
    ended = SimpleNamespace(returncode=0)
    monkeypatch.setattr(sweep.subprocess, "run", lambda each, check: words.append(each) or ended)
    trainings = wanted(tmp_path, "a")
    # only where an executor gave them
    assert sweep.train(trainings) and calls == ["a"]
    monkeypatch.setenv("WISHBONE_LAUNCHED", "1")
    trainings = wanted(tmp_path, "b")
    assert not sweep.train(trainings)
    begin = "-m torch.distributed.run --standalone --nproc-per-node=2 -m wishbone train recipe"
    assert words[0][1:] == [*begin.split(), *trainings[0].overrides]


def test_only_says_which_trainings_and_is_refused_without_any(tmp_path):
    with pytest.raises(UsageError, match="--only names trainings"):
        command.main(["quickstart", "--only", "x", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_voices_that_are_parted_by_blanks_are_told_how_to_stand(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="'kathleen' is neither a change.*nor one of --voices"):
        command.main(["quickstart", "--voices", "joe", "kathleen", "--out", str(out)])
    assert not out.exists()


def test_a_slip_in_the_name_of_an_executor_is_seen_before_anything_is_spoken(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="Did you mean 'local'"):
        command.main(["quickstart", "--executor", "locl:2", "--out", str(out)])
    assert not (out / "audio").exists()


def test_a_training_that_was_told_to_stop_in_its_last_step_ends_the_rest(
    tmp_path, calls, monkeypatch
):
    finish = sweep.run
    monkeypatch.setattr(sweep, "run", lambda *words: finish(*words) or STOPPED)
    trainings = wanted(tmp_path, "a", "b")
    assert not sweep.train(trainings)
    assert calls == ["a"] and [training.done for training in trainings] == [True, False]


def test_a_training_that_was_told_to_stop_ends_the_rest(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(sweep, "run", lambda *words: made.append(words))
    assert not sweep.train(wanted(tmp_path, "a", "b"))
    assert len(made) == 1


@pytest.fixture
def experiment(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    write_recipe(tmp_path)
    (tmp_path / "prompts.txt").write_text("One sentence.\nAnother one.\n")
    path = tmp_path / "try.yaml"
    path.write_text(EXPERIMENT.format(steps=1))
    return path


def test_arms_are_the_cells_and_their_checkpoints_the_seeds(experiment, tmp_path):
    given = read_plan(experiment, trained=tmp_path / "train")
    assert [arm.key for arm in given.arms] == [
        "narrow-first", "narrow-words", "wide-first", "wide-words",
    ]  # fmt: skip
    # all arms with the first seed come before any with the second
    names = [each.key for each in given.trainings]
    assert names[:5] == [*(f"{arm.key}.1" for arm in given.arms), "narrow-first.2"]
    widths = [arm.config["backbone"]["ffn_width"] for arm in given.arms]
    assert widths == [32, 32, 64, 64]
    assert [arm.config["layout"]["form"] for arm in given.arms[:2]] == ["unistream", "bistream"]
    assert all(each.meant for each in config_diff.differences(given))
    with pytest.raises(ConfigError, match="8 of 8 trainings are not done") as caught:
        ab.run(given, tmp_path / "out")
    assert "--train" in caught.value.do


def test_trained_arms_are_read_from_their_exports(experiment, tmp_path, capfd):
    out = tmp_path / "out"
    assert command.main([str(experiment), "--train", "--only", "*-words.*", "--out", str(out)]) == 0
    said = capfd.readouterr().err
    assert "4 of 8 trainings are done" in said and "narrow-first" not in said
    given = read_plan(experiment, trained=out / "train")
    found = {each.key: each.config["weights"] for each in given.checkpoints}
    assert (out / "train" / "wide-words.2" / "export").samefile(found["wide-words.2"])
    trained = [training_diff.provenance(each)["seeds"] for each in given.arms[1].checkpoints]
    assert trained == [{"train": 1}, {"train": 2}]
    # the same experiment with another number of steps is another one
    with pytest.raises(ConfigError, match="with other steps"):
        read_plan(experiment, ["train.set.steps=2"], trained=out / "train")


def test_a_stopped_training_goes_on(experiment, tmp_path, monkeypatch):
    from wishbone.core.train import loop

    class Killed(BaseException):
        pass

    out = tmp_path / "out"
    words = [str(experiment), "train.set.steps=2", "train.set.checkpoint_every=1"]
    words += ["--train", "--only", "wide-words.1", "--out", str(out)]
    whole = loop.Trainer._train_step

    def fatal(self):
        if self.step == 1:
            raise Killed
        whole(self)

    monkeypatch.setattr(loop.Trainer, "_train_step", fatal)
    with pytest.raises(Killed):
        command.main(words)
    monkeypatch.setattr(loop.Trainer, "_train_step", whole)
    assert command.main(words) == 0
    log = (out / "train" / "wide-words.1" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in log if "loss" in json.loads(line)]
    assert steps == [1, 2]


def test_a_level_may_name_another_recipe_and_mistakes_are_the_files(experiment, tmp_path):
    (tmp_path / "other.yaml").write_text("base: recipe\nlearning_rate: 0.5\n")
    text = experiment.read_text()
    experiment.write_text(text.replace("wide: {}", "wide: {base: other}"))
    given = read_plan(experiment, trained=tmp_path / "train")
    recipes = {each.key: str(each.recipe) for each in given.trainings}
    assert recipes["wide-first.1"].endswith("other.yaml")
    assert recipes["narrow-first.1"].endswith("recipe.yaml")
    experiment.write_text(text.replace("wide: {}", "wide: {learning_rat: 1}"))
    with pytest.raises(ConfigError, match="learning_rat") as caught:
        read_plan(experiment, trained=tmp_path / "train")
    assert "try.yaml" in caught.value.where


def test_a_finished_training_from_other_start_weights_is_noticed(experiment, tmp_path):
    out = tmp_path / "out"
    words = [str(experiment), "--train", "--only", "wide-words.1", "--out", str(out)]
    assert command.main(words) == 0
    export = out / "train" / "wide-words.1" / "export"
    record = json.loads((export / "provenance.json").read_text())
    assert record["notes"]["start_weights"] == ""
    # the recipe begins with weights now, and the training that is done did not
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{recipe.read_text()}weights: {export}\n")
    with pytest.raises(ConfigError, match="start weights"):
        read_plan(experiment, trained=out / "train")


@pytest.mark.parametrize("fast", [True, False])
def test_a_training_in_the_precision_of_its_machine_is_the_one_asked_for(
    experiment, tmp_path, monkeypatch, fast
):
    from wishbone.core.train import run

    monkeypatch.setattr(run, "multiplies_bfloat16_faster", lambda device: fast)
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("precision")]
    recipe.write_text("\n".join([*lines, "precision: auto", ""]))
    words = [str(experiment), "--train", "--only", "wide-words.1", "--out", str(out)]
    assert command.main(words) == 0
    for machine in (fast, not fast):
        monkeypatch.setattr(run, "multiplies_bfloat16_faster", lambda device, to=machine: to)
        assert command.main(words) == 0
    other = "train.set.precision=" + ("fp32" if fast else "bf16")
    with pytest.raises(ConfigError, match="with other precision"):
        read_plan(experiment, [other], trained=out / "train")
