"""A Gated DeltaNet hybrid of transformers learns, speaks, is adapted, and teaches an RWKV-7."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "core")]

from tiny_corpus import write_recipe  # noqa: E402

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
pytest.importorskip("transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'")

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.speak import pipeline  # noqa: E402
from wishbone.core.system.build import build_system  # noqa: E402
from wishbone.core.system.spec import read  # noqa: E402

HYBRID = "{name: hf, model: qwen3_5, width: 32, layers: 2, heads: 2, kv_heads: 1, ffn_width: 64}"
WORDS = ["steps=2", "evaluate_every=0", "checkpoint_every=0"]


def export(run):
    return read(str(run / "export"))


def test_it_learns_speaks_is_adapted_and_teaches(tmp_path):
    recipe = str(write_recipe(tmp_path))
    assert main([recipe, f"system.backbone={HYBRID}", f"out={tmp_path}/hybrid", *WORDS]) == 0
    system = build_system(export(tmp_path / "hybrid"))
    assert len(pipeline.say(system, "Hello there.", seed=1).samples) > 0

    adapted = tmp_path / "adapted.yaml"
    own = f"base: {tmp_path}/hybrid/export\nbackbone: {{name: pissa, base: below, rank: 2}}\n"
    adapted.write_text(own)
    assert main([recipe, f"system={adapted}", f"out={tmp_path}/adapted", *WORDS]) == 0
    assert build_system(export(tmp_path / "adapted")).model.backbone.base.width == 32

    student = "system.backbone={name: rwkv7, width: 32, layers: 1, ffn_width: 64, head_size: 16}"
    objective = f"objective={{name: logits, teacher: {tmp_path}/hybrid/export}}"
    assert main([recipe, student, objective, f"out={tmp_path}/student", *WORDS]) == 0
