"""Precision of a training by itself: what the device is fast at, and the same when it goes on."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from tiny_corpus import write_recipe

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.contract.errors import ConfigError  # noqa: E402
from wishbone.core.evaluate.experiment.training_diff import BUDGET  # noqa: E402
from wishbone.core.model.device import multiplies_bfloat16_faster  # noqa: E402
from wishbone.core.train import loop, run  # noqa: E402


@pytest.mark.parametrize("fast, name", [(True, "bf16"), (False, "fp32")])
def test_a_run_takes_what_is_fast_and_keeps_it_on_another_machine(
    tmp_path, monkeypatch, fast, name
):
    seen, whole = [], loop.Trainer._train_step

    def step(self):
        with self._autocast():
            seen.append(torch.is_autocast_enabled("cpu"))
        whole(self)

    monkeypatch.setattr(loop.Trainer, "_train_step", step)
    monkeypatch.setattr(run, "multiplies_bfloat16_faster", lambda device: fast)
    words = [str(write_recipe(tmp_path)), "precision=auto"]
    assert main([*words, "steps=3"]) == 0
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    record = json.loads((tmp_path / "run" / "export" / "provenance.json").read_text())
    assert config.precision == record["notes"]["recipe"]["precision"] == name
    monkeypatch.setattr(run, "multiplies_bfloat16_faster", lambda device: not fast)
    assert main([*words, "steps=6", "--change"]) == 0
    assert seen == [fast] * 6


def test_another_precision_is_no_continuation(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "multiplies_bfloat16_faster", lambda device: False)
    recipe = str(write_recipe(tmp_path))
    assert main([recipe, "precision=auto", "steps=1"]) == 0
    with pytest.raises(ConfigError, match="precision"):
        main([recipe, "precision=bf16", "steps=1"])


def test_this_device_is_asked_without_an_error_and_precision_is_a_budget():
    assert multiplies_bfloat16_faster(torch.device("cpu")) in (True, False)
    assert "training.recipe.precision" in BUDGET
