"""Files of RWKV-4, RWKV-5.2 and RWKV-6 as stacks, beside the official package, and back."""

import subprocess
import sys
from pathlib import Path

import pytest
import rwkv4_oracle
import rwkv56_oracle
import torch

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.registry.loader import registry


def converter(version):
    return registry().get("converter", f"rwkv{version}")()


def model(version):
    return rwkv4_oracle.weights() if version == "4" else rwkv56_oracle.weights(int(version))


@pytest.mark.parametrize("version", ["4", "5", "6"])
def test_a_file_speaks_as_in_the_official_package_and_comes_back_bit_by_bit(version, tmp_path):
    pytest.importorskip("rwkv", reason="needs the package rwkv: pip install 'wishbone-tts[bench]'")
    script = Path(__file__).with_name("rwkv_releases_oracle.py")
    done = subprocess.run(
        [sys.executable, str(script), version, str(tmp_path / "model.pth")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = done.stdout.splitlines()[-2:]
    error, without_norm = map(float, first.split())
    assert error < 2e-5 and without_norm > 1e-2
    assert second == "0"


@pytest.mark.parametrize("version", ["4", "5", "6"])
def test_another_generation_is_refused_with_the_way_to_go(version):
    for other in {"4", "5", "6"} - {version}:
        with pytest.raises(CheckpointError) as caught:
            converter(version).ours(model(other), "other.pth")
        assert f"RWKV-{version}" in caught.value.what and "rwkv4, rwkv5, rwkv6" in caught.value.do


def test_a_file_that_is_cut_short_says_what_is_missing():
    tensors = model("6")
    del tensors["blocks.2.att.value.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: blocks.2.mixer.value"):
        converter("6").ours(tensors, "cut.pth")
    del tensors["ln_out.weight"]
    with pytest.raises(CheckpointError, match="its sizes are read from"):
        converter("6").ours(tensors, "cut.pth")


def test_a_row_of_another_length_is_named():
    tensors = model("4")
    tensors["blocks.1.att.time_mix_k"] = torch.zeros(1, 1, 7)
    with pytest.raises(CheckpointError, match=r"Rows of blocks.1.mixer.mix differ"):
        converter("4").ours(tensors, "odd.pth")


def test_every_name_is_accounted_for():
    tensors = model("5")
    converted = converter("5").ours(tensors)
    assert converted.account.keys() == tensors.keys()
    assert converted.config["mixer"] == {"name": "rwkv5", "head_size": 16}
    assert converted.config["norm"] == "layer" and converted.config["ffn_width"] == 96
    with pytest.raises(CheckpointError, match=r"'blocks.0.other.weight' is not a tensor"):
        converter("5").theirs({"blocks.0.other.weight": torch.zeros(2)})
