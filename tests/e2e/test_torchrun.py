"""Two processes under torchrun train as one with twice the batch; a killed process resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from tiny_corpus import write_recipe  # noqa: E402

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.train import main  # noqa: E402

# processes that import torch, which takes minutes on a busy machine
pytestmark = pytest.mark.timeout(900)

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ONE = [sys.executable, "-m", "wishbone", "train"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO += ["-m", "wishbone", "train"]


def train(command, recipe, *words):
    words = [*command, str(recipe), *words]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


def losses(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        (entry["step"], entry.get("targets"), entry.get("loss", entry.get("held_out")))
        for entry in entries
    ]


@pytest.mark.parametrize("shard", ["none", "full"])
def test_two_processes_are_one_with_twice_the_batch(tmp_path, shard):
    recipe = write_recipe(tmp_path)
    train(TWO, recipe, f"out={tmp_path}/two", f"shard={shard}")
    assert main([str(recipe), f"out={tmp_path}/one", "batch_positions=800"]) == 0
    assert main([str(recipe), f"out={tmp_path}/small"]) == 0
    two, one, small = (losses(tmp_path / name) for name in ("two", "one", "small"))
    assert [entry[:2] for entry in two] == [entry[:2] for entry in one]
    for (_, _, ours), (_, _, theirs) in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    # the same batch on one process is another run: the comparison can fail
    assert [entry[1] for entry in small] != [entry[1] for entry in one]
    assert (tmp_path / "two" / "export" / "model.safetensors").is_file()


def test_a_killed_process_resumes_with_the_same_losses(tmp_path):
    recipe = write_recipe(tmp_path)
    words = ["steps=40", "evaluate_every=20", "checkpoint_every=3"]
    assert main([str(recipe), f"out={tmp_path}/whole", *words]) == 0
    command = [*ONE, str(recipe), f"out={tmp_path}/cut", *words]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "cut" / "checkpoints"
    until = time.monotonic() + 400
    while process.poll() is None and not list(checkpoints.glob("step-*")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # it was killed in the middle, not after its work was done
    assert not (tmp_path / "cut" / "export").exists()
    train(ONE, recipe, f"out={tmp_path}/cut", *words)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
