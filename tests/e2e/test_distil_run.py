"""Three stages from a Transformer to an RWKV-7, as a user runs them; killed, and shared out."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("core", "plugins")]

from tiny_corpus import write_recipe  # noqa: E402
from two_processes import losses, together  # noqa: E402

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.contract.errors import ConfigError  # noqa: E402
from wishbone.core.system.build import build_model  # noqa: E402
from wishbone.core.system.spec import read  # noqa: E402
from wishbone.core.train import loop  # noqa: E402
from wishbone.core.weights.tensor_files import read_tensors  # noqa: E402

# two processes import torch, which takes minutes on a busy machine
pytestmark = pytest.mark.timeout(600)

ARWKV = "system.backbone={name: arwkv, width: 32, layers: 1, ffn_width: 64, head_size: 16}"
WORDS = ["evaluate_every=0", "checkpoint_every=2", "ema=0.5"]


class Killed(BaseException):
    pass


def stage(name, folder, out, *words, **fields):
    """The words of one stage after ``wishbone train``."""
    objective = {"name": name, "teacher": f"{folder}/run/export"} | fields
    text = ", ".join(f"{key}: {value}" for key, value in objective.items())
    return [f"{folder}/recipe.yaml", ARWKV, f"objective={{{text}}}", f"out={folder}/{out}",
            *WORDS, *words]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Token data and a Transformer trained on it."""
    folder = tmp_path_factory.mktemp("distil")
    assert main([str(write_recipe(folder)), "steps=40", "evaluate_every=0"]) == 0
    return folder


def notes(run):
    return json.loads((run / "export" / "provenance.json").read_text())["notes"]


def exported(run):
    return read_tensors(run / "export" / "model.safetensors")


def test_three_stages_make_a_student_and_count_what_it_saw(folder):
    teacher = exported(folder / "run")
    assert main(stage("align", folder, "one", "steps=20", measure="relative")) == 0
    first = exported(folder / "one")
    kept = {name for name in first if ".time_mix." not in name}
    assert kept and all(torch.equal(first[name], teacher[name]) for name in kept)
    measured = [loss for _, loss in losses(folder / "one")]
    assert measured[-1] < 0.8 * measured[0]

    begin = f"weights={folder}/one/export"
    assert main(stage("logits", folder, "two", "steps=2", "seed=2", begin)) == 0
    alone = stage("logits", folder, "alone", "steps=2", "seed=2", inherit="true")
    assert main(alone) == 0
    # the same step without a first stage before it
    assert losses(folder / "two")[0][1] < 0.5 * losses(folder / "alone")[0][1]
    begin = f"weights={folder}/two/export"
    assert main([f"{folder}/recipe.yaml", ARWKV, f"out={folder}/three", begin, *WORDS]) == 0

    one, two, three = (notes(folder / name) for name in ("one", "two", "three"))
    assert one["positions_before"] == 0 and one["positions"] > 20 * 200
    assert two["positions_before"] == one["positions"]
    assert three["positions_before"] == one["positions"] + two["positions"]
    assert one["before"] == []
    assert [each["steps"] for each in three["before"]] == [one["steps"], two["steps"]]
    assert one["objective"]["teacher_weights"] == two["objective"]["teacher_weights"]
    assert len(one["objective"]["teacher_weights"]) == 64 and three["objective"] == {}
    # the last export is a system like any other
    config = read(folder / "three" / "export")
    model = build_model(config)
    assert type(model.backbone).__name__ == "ARWKV"
    saved = exported(folder / "three")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def kill_before(monkeypatch, step):
    whole = loop.Trainer._train_step

    def fatal(self):
        if self.step == step:
            raise Killed
        whole(self)

    monkeypatch.setattr(loop.Trainer, "_train_step", fatal)
    return lambda: monkeypatch.setattr(loop.Trainer, "_train_step", whole)


@pytest.mark.parametrize(("name", "fields"), [("align", {}), ("logits", {"inherit": "true"})])
def test_a_killed_stage_goes_on_with_the_same_losses(folder, monkeypatch, name, fields):
    whole, cut = (stage(name, folder, f"{name}-{out}", **fields) for out in ("whole", "cut"))
    assert main(whole) == 0
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main(cut)
    heal()
    assert main(cut) == 0
    assert losses(folder / f"{name}-cut") == losses(folder / f"{name}-whole")
    ours, theirs = (exported(folder / f"{name}-{out}") for out in ("cut", "whole"))
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs)
    assert (
        notes(folder / f"{name}-cut")["positions"] == notes(folder / f"{name}-whole")["positions"]
    )
    # a teacher that has learned more, and another objective, would be other runs
    weights = folder / "run" / "export" / "model.safetensors"
    kept = weights.read_bytes()
    save_file({name: t + 1e-3 for name, t in read_tensors(weights).items()}, weights)
    with pytest.raises(ConfigError, match=r"learned_from\.teacher_weights"):
        main(cut)
    weights.write_bytes(kept)
    other = stage("logits" if name == "align" else "align", folder, f"{name}-cut")
    with pytest.raises(ConfigError, match=r"objective\.name"):
        main(other)


def test_the_comparison_sees_a_stage_that_starts_anew(folder, monkeypatch):
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main(stage("align", folder, "anew"))
    heal()
    monkeypatch.setattr("wishbone.core.train.run_folder.load_optimizer", lambda *_: None)
    assert main(stage("align", folder, "anew")) == 0
    main(stage("align", folder, "sound"))
    assert losses(folder / "anew") != losses(folder / "sound")


def test_two_processes_that_share_weights_out_take_the_same_steps(folder):
    commands = [
        stage(name, folder, f"{name}-two", "shard=full", "steps=3", **fields)
        for name, fields in (("align", {}), ("logits", {"inherit": "true"}))
    ]
    assert together(*commands, limit=400) == ["", ""]
    for name, fields in (("align", {}), ("logits", {"inherit": "true"})):
        assert main(stage(name, folder, f"{name}-one", "accumulate=2", "steps=3", **fields)) == 0
        ours, theirs = losses(folder / f"{name}-two"), losses(folder / f"{name}-one")
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-5)
        assert ours[-1][1] < ours[0][1]
