"""The language model of a tiny CosyVoice2 release becomes an RWKV-7 by the bundled recipes."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("core", "plugins")]

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
for name in ("onnx", "tokenizers"):
    pytest.importorskip(name, reason="pip install 'wishbone-tts[cosyvoice2]' for the release")

import cosyvoice2_release as made  # noqa: E402
import tiny_corpus  # noqa: E402

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.config.compose import dump  # noqa: E402
from wishbone.core.contract.errors import ConfigError  # noqa: E402
from wishbone.core.data.tokens import write_tokens  # noqa: E402
from wishbone.core.system.build import build_model  # noqa: E402
from wishbone.core.system.spec import read  # noqa: E402

pytestmark = pytest.mark.timeout(600)

ABOUT = {"tokenizer": "cosyvoice2", "codec": "cosyvoice2", "codebooks": 1, "rate": 25.0}
ARWKV = {"name": "arwkv", "width": 64, "layers": 2, "ffn_width": 96, "head_size": 32,
         "decay_rank": 0, "rate_rank": 0, "value_rank": 0, "gate_rank": 0}  # fmt: skip
WORDS = ["precision=fp32", "log_every=1", "checkpoint_minutes=0", "steps=4", "warmup_steps=0",
         "evaluate_every=0", "held_out=0.1", "device=cpu", "ema=0",
         "learning_rate=1e-3"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A release, its system, token data, and the bundled recipes made tiny."""
    folder = tmp_path_factory.mktemp("release")
    made.write(folder / "release")
    made.write_system(folder / "teacher.yaml", folder / "release")
    rows = [row | {"codes": row["codes"] * 3, "word_ends": []} for row in tiny_corpus.rows(30)]
    write_tokens(folder / "tokens" / "000.parquet", rows, ABOUT)
    for stage in ("1-align", "2-logits", "3-tune"):
        values = {
            "base": f"cosyvoice2-distil-{stage}",
            "system": made.TINY | {"backbone": ARWKV},
            "data": f"{folder}/tokens",
            "batch_positions": 300,
        }
        if stage != "3-tune":
            values["objective"] = {"teacher": f"{folder}/teacher.yaml"}
        (folder / f"{stage}.yaml").write_text(dump(values))
    return folder


def test_a_release_becomes_an_rwkv7_in_three_stages(folder):
    def train(stage, *words):
        assert main([f"{folder}/{stage}.yaml", f"out={folder}/{stage}", *WORDS, *words]) == 0
        return folder / stage / "export"

    release = f"{folder}/release"
    one = train("1-align", f"weights={release}")
    student = build_model(read(one)).state_dict()
    theirs = build_model(read(folder / "teacher.yaml")).state_dict()
    kept = {name for name in student if ".time_mix." not in name}
    assert {n for n in theirs if ".attention." not in n} == kept
    assert all(torch.equal(student[name], theirs[name]) for name in kept)
    start = theirs["backbone.blocks.0.attention.output.weight"]
    drift = (student["backbone.blocks.0.time_mix.output.weight"] - start).abs().max()
    # four steps of 1e-3 from where attention was
    assert 1e-4 < drift < 5e-3

    with pytest.raises(ConfigError, match="has no weights"):
        bare = "objective={name: logits, teacher: cosyvoice2}"
        main([f"{folder}/2-logits.yaml", f"out={folder}/bare", f"system={one}", bare, *WORDS])
    two = train("2-logits", f"system={one}", f"objective.teacher_weights={release}")
    three = train("3-tune", f"system={two}")
    config = read(three)
    # what speaks around the language model is the release's still
    assert config["decoder"]["weights"] == release and config["backbone"]["name"] == "arwkv"
    notes = json.loads((three / "provenance.json").read_text())["notes"]
    assert notes["positions_before"] > notes["positions"] > 0
    moved = build_model(config).state_dict()
    assert not torch.equal(moved["head.output.weight"], student["head.output.weight"])
