"""A model of text that is given a voice: it goes on as before, and only PiSSA's part is new."""

import json
import re

import pytest
import torch
from tiny_corpus import write_recipe
from two_processes import losses

from wishbone.core.contract.errors import CheckpointError, GateFailed, UsageError
from wishbone.core.system.loading import load_part
from wishbone.core.weights.tensor_files import read_tensors

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.convert import main as convert  # noqa: E402
from wishbone.core.cli.data import main as data  # noqa: E402
from wishbone.core.cli.speech.text import main as text  # noqa: E402
from wishbone.core.cli.train import main as train  # noqa: E402
from wishbone.core.system.build import build_model  # noqa: E402
from wishbone.core.train import loop  # noqa: E402
from wishbone.core.train.recipe import read_recipe  # noqa: E402

BASE = {"name": "rwkv7", "width": 32, "layers": 2, "head_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained model of text, and speech trained on it: with PiSSA, and as a whole."""
    folder = tmp_path_factory.mktemp("adapted")
    lines = [f"Number {n} sat on the mat." for n in ("one", "two", "three", "four", "five")]
    (folder / "lines.txt").write_text("\n".join(lines))
    system = {
        "task": "text", "tokenizer": {"name": "characters"}, "backbone": BASE,
        "head": {"name": "linear"},
    }  # fmt: skip
    (folder / "text.yaml").write_text(json.dumps(system))
    words = [str(folder / "lines.txt"), "--out", str(folder / "letters")]
    data(["text", *words, "--system", str(folder / "text.yaml")])
    recipe = {
        "system": str(folder / "text.yaml"), "data": str(folder / "letters"), "held_out": 0.0,
        "out": str(folder / "text"), "steps": 3, "batch_positions": 200, "warmup_steps": 1,
        "learning_rate": 1e-2, "evaluate_every": 0, "checkpoint_minutes": 0, "precision": "fp32",
        "device": "cpu", "ema": 0,
    }  # fmt: skip
    (folder / "text-recipe.yaml").write_text(json.dumps(recipe))
    assert train([str(folder / "text-recipe.yaml")]) == 0
    speech = str(write_recipe(folder, count=30))
    base = BASE | {"weights": str(folder / "text" / "export")}
    pissa = {"name": "pissa", "rank": 3, "base": base}
    for name, backbone in (("pissa", pissa), ("full", base)):
        words = [f"out={folder}/{name}", f"system.backbone={json.dumps(backbone)}"]
        assert train([speech, *words, "learning_rate=0.05"]) == 0
    return folder


def command(folder, inside):
    return ["Number", "--system", str(folder / "text" / "export"),
            "--inside", str(folder / inside / "export"), "--count", "12", "--check"]  # fmt: skip


def test_text_goes_on_inside_the_speech_system_as_before(folder, capsys):
    assert text(command(folder, "pissa")) == 0
    inside = capsys.readouterr()
    assert "the same to the last bit" in inside.out
    assert text(["Number", "--system", str(folder / "text" / "export"), "--count", "12"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == inside.out.splitlines()[0]
    said = next(line for line in inside.err.splitlines() if "on one backbone" in line)
    shared, apart = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) B", said))
    assert 0 < shared < apart


def test_a_base_that_was_trained_on_is_told(folder):
    with pytest.raises(GateFailed, match="logits differ"):
        text(command(folder, "full"))


def test_training_changed_the_factors_and_nothing_else_of_the_backbone(folder):
    before = read_tensors(folder / "text" / "export" / "model.safetensors")
    after = read_tensors(folder / "pissa" / "export" / "model.safetensors")
    for name, tensor in before.items():
        if name.startswith("backbone."):
            assert torch.equal(after[name.replace("backbone.", "backbone.base.", 1)], tensor)
    changed = [n for n in after if n.endswith(".A") and not torch.equal(after[n], after[f"{n}0"])]
    assert len(changed) == 4


def test_a_killed_training_goes_on_exactly(folder, monkeypatch):
    speech = str(folder / "recipe.yaml")
    base = BASE | {"weights": str(folder / "text" / "export")}
    backbone = json.dumps({"name": "pissa", "rank": 3, "base": base})
    words = [speech, f"system.backbone={backbone}", "learning_rate=0.05", f"out={folder}/cut"]
    whole = loop.Trainer._train_step

    def fatal(self):
        if self.step == 5:
            raise KeyboardInterrupt
        whole(self)

    monkeypatch.setattr(loop.Trainer, "_train_step", fatal)
    with pytest.raises(KeyboardInterrupt):
        train(words)
    monkeypatch.setattr(loop.Trainer, "_train_step", whole)
    assert train(words) == 0
    assert losses(folder / "cut") == losses(folder / "pissa")
    ours, theirs = (
        read_tensors(folder / name / "export" / "model.safetensors") for name in ("cut", "pissa")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_system_is_taken_apart_and_computes_the_same(folder, tmp_path):
    source = folder / "pissa" / "export"
    _, system = read_recipe(str(folder / "recipe.yaml"))
    exported = {**json.loads(json.dumps(dict(system)))}
    base = BASE | {"weights": str(folder / "text" / "export")}
    exported["backbone"] = {"name": "pissa", "rank": 3, "base": base}
    whole = build_model({**exported, "weights": str(source)})
    x = torch.randn(1, 7, 32)
    y, _ = whole.eval().backbone(x)
    assert convert(["pissa-alone", str(source), str(tmp_path / "alone")]) == 0
    assert convert(["pissa-merged", str(source), str(tmp_path / "merged")]) == 0
    assert convert(["pissa", str(source), str(tmp_path / "lora"), "--out"]) == 0
    alone = build_model({**exported, "weights": str(tmp_path / "alone")})
    assert torch.equal(alone.eval().backbone(x)[0], y)
    held = read_tensors(tmp_path / "alone" / "model.safetensors")
    assert not any(name.endswith("norm_in.weight") for name in held)
    merged = build_model({**exported, "backbone": BASE, "weights": str(tmp_path / "merged")})
    assert torch.allclose(merged.eval().backbone(x)[0], y, atol=1e-5)
    start = {"weights": str(tmp_path / "lora")}
    again = build_model(
        {**exported, "weights": None,
         "backbone": {"name": "pissa", "rank": 6, "base": base, "start": start}}
    )  # fmt: skip
    assert torch.allclose(again.eval().backbone(x)[0], y, atol=1e-5)
    with pytest.raises(CheckpointError, match="did not adapt"):
        convert(["pissa-merged", str(folder / "full" / "export"), str(tmp_path / "no")])
    # without its base a system cannot be taken apart again
    with pytest.raises(CheckpointError, match="no tensors of the base"):
        convert(["pissa-merged", str(tmp_path / "alone"), str(tmp_path / "no")])
    with pytest.raises(UsageError, match="is not converted"):
        convert(["pissa", str(tmp_path / "lora"), str(tmp_path / "no")])


def test_a_wrong_base_is_refused_by_name(folder, tmp_path):
    source = folder / "pissa" / "export"
    assert convert(["pissa-alone", str(source), str(tmp_path / "alone")]) == 0
    wider = {"name": "pissa", "rank": 3, "base": BASE | {"width": 48}}
    wider["base"]["weights"] = str(folder / "text" / "export")
    _, system = read_recipe(str(folder / "recipe.yaml"))
    with pytest.raises(CheckpointError, match="not those of the base"):
        build_model({**system, "backbone": wider})
    plain = build_model({**system, "backbone": BASE})
    with pytest.raises(CheckpointError, match="unexpected"):
        load_part(plain, source)
