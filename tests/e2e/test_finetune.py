"""A tiny CosyVoice2 release is fine-tuned, by one process and by two that share it out."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("core", "plugins")]

from two_processes import losses, together  # noqa: E402

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
for name in ("onnx", "tokenizers"):
    pytest.importorskip(name, reason="pip install 'wishbone-tts[cosyvoice2]' for the release")

import cosyvoice2_release as made  # noqa: E402
import tiny_corpus  # noqa: E402

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.config.compose import dump  # noqa: E402
from wishbone.core.data.tokens import write_tokens  # noqa: E402
from wishbone.core.system.build import build_model  # noqa: E402
from wishbone.core.system.spec import read  # noqa: E402
from wishbone.core.train.recipe import read_recipe  # noqa: E402

# two processes import torch, which takes minutes on a busy machine
pytestmark = pytest.mark.timeout(600)

ABOUT = {"tokenizer": "cosyvoice2", "codec": "cosyvoice2", "codebooks": 1, "rate": 25.0}
WORDS = ["precision=fp32", "log_every=1", "checkpoint_minutes=0", "checkpoint_every=4", "steps=8",
         "evaluate_every=0", "learning_rate=1e-3", "held_out=0.1", "device=cpu"]  # fmt: skip
RWKV7 = {"name": "rwkv7", "width": 64, "layers": 2, "head_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A release, token data with enough codes for bistream, and the bundled recipes made tiny."""
    folder = tmp_path_factory.mktemp("finetune")
    made.write(folder / "release")
    rows = [row | {"codes": row["codes"] * 3, "word_ends": []} for row in tiny_corpus.rows(40)]
    write_tokens(folder / "tokens" / "000.parquet", rows, ABOUT)
    for name, backbone in (("cosyvoice2", made.TINY["backbone"]), ("cosyvoice2-rwkv7", RWKV7)):
        values = {
            "base": name,
            "system": made.TINY | {"backbone": backbone},
            "data": f"{folder}/tokens",
            "batch_positions": 300,
        }
        (folder / f"tiny-{name}.yaml").write_text(dump(values))
    return folder


def train(folder, name, out, *words):
    return [f"{folder}/tiny-{name}.yaml", f"out={folder}/{out}", f"weights={folder}/release",
            *WORDS, *words]  # fmt: skip


def test_two_processes_fine_tune_a_release_as_one_does(folder):
    assert together(train(folder, "cosyvoice2", "two"), limit=400) == ["", ""]
    assert main(train(folder, "cosyvoice2", "one", "accumulate=4")) == 0
    ours, theirs = losses(folder / "two"), losses(folder / "one")
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-5)
    assert ours[-1][1] < ours[0][1] - 0.2
    saved = folder / "two" / "checkpoints" / "step-00000008"
    assert (saved / "model-00001-of-00002.safetensors").is_file()
    # the export is a system: what was trained is its own, the rest is the release's
    config = read(folder / "two" / "export")
    assert config["decoder"]["weights"] == f"{folder}/release"
    tuned = build_model(config).state_dict()
    before = build_model(made.config(folder / "release")).state_dict()
    assert tuned.keys() == before.keys()
    changed = [name for name in tuned if not torch.equal(tuned[name], before[name])]
    assert len(changed) > 0.9 * len(tuned)
    notes = json.loads((folder / "two" / "export" / "provenance.json").read_text())["notes"]
    assert notes["recipe"]["shard"] == "full" and notes["recipe"]["accumulate"] == 2
    drift = max(float((tuned[n] - before[n]).abs().max()) for n in tuned)
    # it began with the release's weights: eight steps of 1e-3 lead no further
    assert drift < 0.02


def test_an_rwkv7_takes_the_place_and_keeps_its_training(folder):
    assert main(train(folder, "cosyvoice2-rwkv7", "mine", "steps=2")) == 0
    export = folder / "mine" / "export"
    own = f"system.backbone.weights={export}"
    words = train(folder, "cosyvoice2-rwkv7", "further", "steps=1", own)
    # a backbone's own weights are a file of a backbone
    from wishbone.core.weights.tensor_files import read_tensors, write_tensors

    whole = read_tensors(export / "model.safetensors")
    own = {n.removeprefix("backbone."): t for n, t in whole.items() if n.startswith("backbone.")}
    write_tensors(export / "backbone.safetensors", own)
    assert main(words) == 0
    config = read(folder / "further" / "export")
    assert "weights" not in config["backbone"]
    again = build_model(config).state_dict()
    kept = read_tensors(folder / "further" / "export" / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in again.items())
    assert not all(torch.equal(again[f"backbone.{name}"], own[name]) for name in own)


def test_the_recipes_say_what_the_public_one_says():
    recipe, system = read_recipe("cosyvoice2")
    assert system["layout"]["bistream_probability"] == 0.5
    assert (recipe.learning_rate, recipe.clip, recipe.accumulate) == (1e-5, 5.0, 2)
    from wishbone.core.train.optimizer import schedule_factor

    assert {schedule_factor(step, recipe) for step in (0, 5, recipe.steps - 1)} == {1.0}
    _, system = read_recipe("cosyvoice2-rwkv7", ["weights=somewhere"])
    assert system["backbone"]["name"] == "rwkv7"
    assert system["weights"] == system["decoder"]["weights"] == "somewhere"
