"""Systems are looked at before they are built: quickly, and without a trace in what is built."""

import subprocess
import sys

import torch
from torch import nn

from wishbone.core.system.build import build_model, without_memory
from wishbone.core.system.spec import read

CODE = """
import sys, wishbone
wishbone.load("quickstart-rwkv7")
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""


def test_loading_does_not_import_the_compiler():
    process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]


def test_no_first_values_and_no_random_number_are_spent():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with without_memory("cpu"):
        layer = nn.Linear(300, 300)
        nn.init.normal_(layer.weight, mean=1e6)
        torch.randn(5)
    assert torch.equal(torch.rand(1), expected)
    assert layer.weight.shape == (300, 300)
    assert not (layer.weight > 9e5).all(), "the weights were filled"
    assert (nn.init.normal_(layer.weight, mean=1e6) > 9e5).all(), "later they are"


def test_the_device_of_the_block_holds():
    with without_memory("meta"):
        assert nn.Linear(2, 2).weight.is_meta


def test_what_is_built_is_as_without_the_look():
    """Initial weights follow from the seed alone, and every one of them is filled."""
    config = {k: v for k, v in read("quickstart-rwkv7").items() if k != "weights"}
    config["backbone"] = {k: v for k, v in config["backbone"].items() if k != "weights"}
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(build_model(config).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert all(torch.isfinite(tensor).all() for tensor in models[0].values())
