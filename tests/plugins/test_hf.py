"""Language models of transformers keep the contract, and are what transformers computes."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'")

from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import CheckpointError, ConfigError, UnknownName
from wishbone.core.system.loading import load_part
from wishbone.core.testing import check_class, trained_looking_
from wishbone.plugins.hf import admission, memory
from wishbone.plugins.hf.backbone import HF, HFConfig, tiny_config
from wishbone.plugins.hf.families import ALIASES, FAMILIES, REFUSED

FAST = ("qwen3", "lfm2", "mamba2", "qwen3_5_text")
"""Families of every kind of memory: attention, convolution, recurrence, and a hybrid."""
OTHERS = tuple(family for family in FAMILIES if family not in FAST)
EVERY = os.environ.get("WISHBONE_HF_FAMILIES") == "all"


def failed(family):
    results = check_class("backbone", HF, tiny_config(family))
    return [f"{r.name}: {r.detail}" for r in results if not r.passed]


@pytest.mark.parametrize("family", FAST)
def test_a_family_keeps_the_contract(family):
    assert failed(family) == []


@pytest.mark.skipif(not EVERY, reason="WISHBONE_HF_FAMILIES=all runs the suite on every family")
@pytest.mark.parametrize("family", OTHERS)
def test_every_other_family_keeps_the_contract(family):
    assert failed(family) == []


@pytest.mark.parametrize("family", OTHERS)
def test_every_other_family_continues_from_its_state(family):
    """The quick part of the suite: pieces of a call, and padding on a warm state."""
    torch.manual_seed(0)
    model = trained_looking_(HF(tiny_config(family)), 0).eval()
    x = torch.randn(2, 21, 64)
    with torch.no_grad():
        expected, after = model(x)
        first, state = model(x[:, :9])
        second, state = model(x[:, 9:20], state)
        third = model.step_(x[:, 20:], state)
    assert (torch.cat([first, second, third], 1) - expected).abs().max() < 1e-4
    assert state.keys() == after.keys() == model.init_state(1).keys()
    for name, part in after.items():
        assert torch.allclose(state[name], part, atol=1e-3, rtol=1e-3), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A made-up release of a tiny Qwen3 with its table of ids and its head."""
    path = tmp_path_factory.mktemp("qwen3")
    config = CONFIG_MAPPING["qwen3"](
        vocab_size=50, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=80, head_dim=16, rope_theta=5000.0,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    trained_looking_(AutoModelForCausalLM.from_config(config), 0).save_pretrained(path)
    return path


def built(values):
    slot = parse_slot({"backbone": values}, "backbone")
    model = slot.build()
    load_part(model, slot.weights, "backbone")
    return model.eval(), slot


def test_a_folder_says_sizes_and_weights(folder):
    model, slot = built({"name": "hf", "weights": str(folder)})
    assert (slot.config.model, slot.config.width, slot.config.layers) == ("qwen3", 48, 3)
    oracle = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        expected = oracle.model(ids).last_hidden_state
        y, _ = model(oracle.get_input_embeddings()(ids))
    assert (y - expected).abs().max() < 1e-5
    # what is saved after a training stands without the folder
    values = {k: v for k, v in slot.values.items() if k not in ("weights", "name")}
    again = HF(HFConfig(**json.loads(json.dumps(values))))
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(oracle.get_input_embeddings()(ids))[0], y)


def test_a_folder_lends_its_weights_to_an_adapter(folder):
    pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")
    from wishbone.core.system.loading import load_bases

    plain, _ = built({"name": "hf", "weights": str(folder)})
    for method in ("lora", "pissa"):
        base = {"name": "hf", "weights": str(folder)}
        values = {"name": "peft", "base": base, "method": method, "rank": 4}
        model = parse_slot({"backbone": values}, "backbone").build()
        holder = torch.nn.ModuleDict({"backbone": model}).eval()
        load_bases(holder)
        x = torch.randn(2, 9, 48)
        with torch.no_grad():
            assert (model(x)[0] - plain(x)[0]).abs().max() < 1e-5


def test_nothing_is_fetched_unless_it_is_said(folder, monkeypatch):
    fetched = []

    def snapshot(name, allow_patterns):
        fetched.append(name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert HFConfig(weights="acme/model").weights == "acme/model" and not fetched
    assert HFConfig(weights="acme/model", download=True).weights == str(folder)
    assert HFConfig(weights=str(folder), download=True).layers == 3
    assert fetched == ["acme/model"]


def test_wrong_folders_are_said(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing_here"}')
    with pytest.raises(CheckpointError, match="not a model"):
        HFConfig(weights=str(tmp_path))
    with pytest.raises(ValueError, match="'width' is 64"):
        HFConfig(weights=str(folder), width=64)


@pytest.mark.parametrize("family", REFUSED)
def test_refused_families_are_refused_with_a_reason(family):
    with pytest.raises(ConfigError, match="cannot be a backbone"):
        HF(HFConfig(model=family))


BROKEN = {
    "mamba": ("splits", {}),
    "falcon_mamba": ("splits", {}),
    "jamba": ("splits", {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
                         "mamba_d_state": 8, "use_mamba_kernels": False}),
    "rwkv": ("splits", {}),
    "recurrent_gemma": ("state_file", {}),
    "minimax": ("preflight", {}),
    "xlstm": ("preflight", {}),
}  # fmt: skip
"""Refused family -> the check of the suite that its tiny copy fails, and values of that copy."""


def test_every_refusal_is_measured():
    assert set(BROKEN) == set(REFUSED)


@pytest.mark.skipif(not EVERY, reason="WISHBONE_HF_FAMILIES=all runs the suite on every family")
@pytest.mark.parametrize("family", BROKEN)
def test_a_refused_family_breaks_the_contract(family, monkeypatch):
    check, values = BROKEN[family]
    monkeypatch.setattr(admission, "REFUSED", {})
    monkeypatch.setattr(admission, "_TRIED", {family: ""})
    layers = {"jamba": 4, "recurrent_gemma": 3}.get(family, 2)
    config = dataclasses.replace(tiny_config(family), layers=layers, config=values)
    results = check_class("backbone", HF, config)
    assert check in [r.name for r in results if not r.passed]


def test_unknown_names(monkeypatch):
    with pytest.raises(UnknownName, match="qwen33"):
        HF(HFConfig(model="qwen33"))
    with pytest.raises(ConfigError, match="no rope_thetta"):
        HF(HFConfig(width=64, config={"rope_thetta": 1}))


def test_a_family_that_is_not_listed_is_tried_once(monkeypatch, tmp_path):
    monkeypatch.setenv("WISHBONE_CACHE", str(tmp_path))
    runs = []
    trying = admission.try_family

    def counted(*args):
        runs.append(args[0])
        return trying(*args)

    monkeypatch.setattr(admission, "try_family", counted)
    monkeypatch.setattr(admission, "_TRIED", {})
    HF(tiny_config("olmo2"))
    HF(tiny_config("olmo2"))
    monkeypatch.setattr(admission, "_TRIED", {})
    HF(tiny_config("olmo2"))
    assert runs == ["olmo2"] and admission.read_answers() == {"olmo2": ""}
    monkeypatch.setattr(admission, "_TRIED", {})
    monkeypatch.setattr(admission, "try_family", lambda *_: "splits: off by 1")
    with pytest.raises(ConfigError, match="broke the contract: splits: off by 1"):
        HF(tiny_config("olmo"))


def test_the_suite_sees_a_state_that_is_dropped(monkeypatch):
    """Negative control: what makes transformers' mamba unfit."""

    def forgetful(self, conv_states, state_idx=0, conv_kernel_size=None):
        self.conv_states[state_idx] = None
        return memory.Assigned.update_conv_state(self, conv_states, state_idx, conv_kernel_size)

    monkeypatch.setattr(memory.Recurrent, "update_conv_state", forgetful)
    assert any(fault.startswith("splits") for fault in failed("lfm2"))


def test_kernels_for_a_gpu_are_hidden_from_models_on_a_cpu(tmp_path):
    """A package 'fla' that fails when it is imported or called, as it does without a GPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, where the kernels are wanted")
    for name in ("fla", "mamba_ssm", "causal_conv1d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "class _All:\n    def __getattr__(self, name): raise RuntimeError('0 active drivers')\n"
            "import sys\nsys.modules[__name__ + '.ops'] = _All()\n"
            "def __getattr__(name):\n    if name.startswith('_'): raise AttributeError(name)\n"
            "    def call(*args, **values): raise RuntimeError('0 active drivers')\n"
            "    return call\n"
        )
    code = (
        "import torch\nfrom wishbone.plugins.hf.backbone import HF, tiny_config\n"
        "for family in ('mamba2', 'qwen3_5_text'):\n"
        "    HF(tiny_config(family)).eval()(torch.zeros(1, 3, 64))\n"
        "from wishbone.plugins.hf.report import hf_report\n"
        "said = hf_report()[1][2]\n"
        "assert 'fla, mamba_ssm, causal_conv1d used with a GPU, left out without' in said, said\n"
        "import fla"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-1500:]
    # transformers' advice to install them would help nobody here
    assert "falling back" not in done.stderr


def test_builds_on_meta_work_after_weights_were_read(folder):
    built({"name": "hf", "weights": str(folder)})
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).device.type == "meta"


def test_aliases_lead_to_families():
    assert set(ALIASES.values()) <= set(FAMILIES)
