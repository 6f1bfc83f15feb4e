"""Logits and every state agree with the official ``rwkv`` package and with ``rwkv7-hf``."""

import argparse
import importlib.util
import inspect
import os
import re
import subprocess
import sys

import pytest
import torch
from rwkv7_files import squeezed, trained_looking
from torch.nn import functional as F

from wishbone.core.contract.stack.mixer import Call
from wishbone.kernels.elementwise import reference
from wishbone.plugins.rwkv7 import attention, layers
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.convert import FLA, RWKVLM

TOKENS = [
    3,
    1,
    4,
    1,
    5,
    9,
    2,
    6,
    5,
    3,
    5,
    8,
    9,
    7,
    9,
    3,
    2,
    3,
    8,
    4,
    6,
    2,
    6,
    4,
    3,
    3,
    8,
    3,
    2,
    7,
    9,
]
SPLIT = 13
"""Not a multiple of 16, nor of anything the chunks are made of."""
CASES = {
    "head64": {"width": 192, "head_size": 64, "ffn_width": 768, "seed": 6},
    "head32": {"width": 96, "head_size": 32, "ffn_width": 384},
    "narrow": {"width": 96, "head_size": 32, "ffn_width": 200, "seed": 1},
    "flat": {"width": 128, "head_size": 64, "ffn_width": 256, "seed": 5},
    "unused": {"width": 128, "head_size": 64, "ffn_width": 512, "seed": 3},
}
"""Some seeds amplify the rounding of float32 to 1.5e-5 against our own float64; these do not."""
OFFICIAL = """
import sys, torch
from rwkv.model import RWKV
folder, split, *names = sys.argv[1:]
tokens, split, found = torch.load(folder + "/tokens.pt", weights_only=True), int(split), {}
for name in names:
    model = RWKV(model=f"{folder}/{name}", strategy="cpu fp32")
    whole, after = model.forward(tokens, None, full_output=True)
    first, middle = model.forward(tokens[:split], None, full_output=True)
    kept = [x.clone() for x in middle]
    second, _ = model.forward(tokens[split:], kept, full_output=True)
    state, steps = None, []
    for token in tokens:
        logits, state = model.forward(token, state)
        steps.append(logits)
    found[name] = {"whole": whole, "split": torch.cat([first, second]),
                   "steps": torch.stack(steps), "middle": middle, "after": after}
torch.save(found, folder + "/found.pt")
"""


def case(name):
    tensors = trained_looking(**CASES[name])
    if name == "unused":
        width = CASES[name]["width"]
        tensors |= {"blocks.0.att.v0": torch.ones(1, 1, width)}
        tensors |= {
            "blocks.0.att.v1": torch.ones(width, 8),
            "blocks.0.att.v2": torch.ones(8, width),
        }
    return squeezed(tensors) if name == "flat" else tensors


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Results of the official package: {case: {"whole": logits, "after": [3 L states], ...}}."""
    if importlib.util.find_spec("rwkv") is None:
        pytest.skip("compares with the official runtime: pip install rwkv")
    folder = tmp_path_factory.mktemp("official")
    torch.save(TOKENS, folder / "tokens.pt")
    for name in CASES:
        torch.save(case(name), folder / f"{name}.pth")
    # These must be set before its import, which decides once what RWKV means.
    chosen = {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(folder), str(SPLIT), *CASES],
        cwd=folder, env=os.environ | chosen, check=True, capture_output=True, timeout=500,
    )  # fmt: skip
    return torch.load(folder / "found.pt", weights_only=True)


class Ours:
    """A backbone between the two tables of a text model."""

    def __init__(self, converted):
        fields = {key: value for key, value in converted.config.items() if key != "name"}
        self.backbone = RWKV7(RWKV7.Config(**fields)).eval()
        self.backbone.load_state_dict(converted.tensors)
        self.tables = converted.tables

    def vectors(self, tokens):
        return F.embedding(torch.tensor(tokens)[None], self.tables["tables.embedding"])

    @torch.no_grad()
    def __call__(self, tokens, state=None):
        y, state = self.backbone(self.vectors(tokens), state)
        return F.linear(y[0], self.tables["tables.head"]), state

    @torch.no_grad()
    def step(self, token, state):
        y = self.backbone.step_(self.vectors([token]), state)
        return F.linear(y[0, 0], self.tables["tables.head"])


def apart(actual, expected):
    """Largest difference as a share of the tolerance for logits of this spread."""
    spread = max(1.0, expected.std().item())
    return ((actual - expected).abs().max() / (2e-5 * spread)).item()


def ours(name):
    return Ours(RWKVLM.ours(case(name)))


def states_apart(state, official_list):
    """Largest difference over all states; theirs are shift, wkv [H, V, K], shift per block."""
    worst = 0.0
    for i in range(len(official_list) // 3):
        names = ("time_shift", "wkv", "channel_shift")
        for name, expected in zip(names, official_list[3 * i : 3 * i + 3], strict=True):
            actual = state[f"blocks.{i}.{name}"][0]
            assert actual.shape == expected.shape, (i, name)
            worst = max(worst, (actual - expected).abs().max().item())
    return worst


@pytest.mark.parametrize("name", CASES)
def test_logits_and_states_are_the_official_ones(official, name):
    peer, model = official[name], ours(name)
    logits, after = model(TOKENS)
    assert apart(logits, peer["whole"]) < 1
    assert states_apart(after, peer["after"]) < 5e-5


@pytest.mark.parametrize("name", ["head64", "narrow"])
def test_in_pieces_and_step_by_step(official, name):
    peer, model = official[name], ours(name)
    first, middle = model(TOKENS[:SPLIT])
    second, after = model(TOKENS[SPLIT:], middle)
    assert apart(torch.cat([first, second]), peer["split"]) < 1
    assert states_apart(middle, peer["middle"]) < 5e-5
    assert states_apart(after, peer["after"]) < 5e-5
    state = model.backbone.init_state(1)
    steps = torch.stack([model.step(token, state) for token in TOKENS])
    assert apart(steps, peer["steps"]) < 1
    assert states_apart(state, peer["after"]) < 5e-5


def restored(peer, turned=False):
    """The official state before the split, as ours."""
    state = {}
    for i in range(len(peer["middle"]) // 3):
        time, wkv, channel = peer["middle"][3 * i : 3 * i + 3]
        state[f"blocks.{i}.time_shift"] = time[None]
        state[f"blocks.{i}.wkv"] = (wkv.mT if turned else wkv)[None].contiguous()
        state[f"blocks.{i}.channel_shift"] = channel[None]
    return state


def test_an_official_state_can_be_taken_up(official):
    peer = official["narrow"]
    logits, _ = ours("narrow")(TOKENS[SPLIT:], restored(peer))
    assert apart(logits, peer["whole"][SPLIT:]) < 1


def test_a_transposed_state_does_not_agree(official):
    peer = official["narrow"]
    logits, _ = ours("narrow")(TOKENS[SPLIT:], restored(peer, turned=True))
    assert apart(logits, peer["whole"][SPLIT:]) > 100


DIRECTION = "direction = F.normalize(k * k_k, dim=-1, eps=1e-12)"
KEY = "key = k * (1 + (rate - 1) * k_a)"
LATE = DIRECTION.replace("k * k_k", "key * k_k")
MISTAKES = {
    "the key is normed after a changed it": (
        "prepare", f"{DIRECTION}\n    {KEY}", f"{KEY}\n    {LATE}"),
    "the bonus comes before the norm": (
        "finish", "F.layer_norm(y,", "F.layer_norm(y + (r * key * r_k).sum(-1, keepdim=True) * v,"),
    "the bonus takes the key as it was": (
        "attend", "finish(y, r, key,", "finish(y, r, projected[1].unflatten(-1, key.shape[2:]),"),
    "a is not in the row that is written": ("prepare", "(direction * rate)", "direction"),
    "the decay is not squashed": ("prepare", "torch.sigmoid(low_w + w0)", "torch.sigmoid(low_w)"),
    "nothing is wrong": ("prepare", "-DECAY", "-DECAY"),
}  # fmt: skip
PLACES = {
    "attend": (attention, attention.attend, layers),
    "prepare": (reference, reference.prepare_reference, attention),
    "finish": (reference, reference.finish_reference, attention),
}
"""Name -> the module that defines it, the function, and the module that calls it."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_formula_would_be_seen(official, monkeypatch, mistake):
    name, before, after = MISTAKES[mistake]
    module, function, caller = PLACES[name]
    source = re.sub(r"  # \[.*", "", inspect.getsource(function))  # without the shapes
    assert before in source
    space = dict(vars(module))
    exec(compile(source.replace(before, after), mistake, "exec"), space)
    monkeypatch.setattr(caller, name, space[function.__name__])
    monkeypatch.setattr(layers, "attend_fused", layers.attend)
    logits, _ = ours("narrow")(TOKENS)
    difference = apart(logits, official["narrow"]["whole"])
    assert difference < 1 if mistake == "nothing is wrong" else difference > 100


def swapped():
    """PyTorch with tanh and sigmoid in each other's place."""
    space = argparse.Namespace(**vars(torch))
    space.tanh, space.sigmoid = torch.sigmoid, torch.tanh
    return space


def test_mistakes_around_it_would_be_seen(official, monkeypatch):
    expected, model = official["narrow"]["whole"], ours("narrow")
    with monkeypatch.context() as patch:
        patch.setattr(layers, "torch", swapped())
        assert apart(model(TOKENS)[0], expected) > 100
    mixed = layers._mixed
    with monkeypatch.context() as patch:
        patch.setattr(
            layers, "_mixed", lambda h, shift, rows, lengths: mixed(h, shift, 1 - rows, lengths)
        )
        assert apart(model(TOKENS)[0], expected) > 100
    forward = layers.TimeMix.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            layers.TimeMix, "forward", lambda self, x, state, call: forward(self, x, state, Call())
        )
        assert apart(model(TOKENS)[0], expected) > 100
    for block in model.backbone.blocks:
        block.time_mix.eps = 1e-5
    assert apart(model(TOKENS)[0], expected) > 2


@pytest.fixture(scope="module")
def hf():
    pytest.importorskip("transformers", reason="compares with rwkv7-hf: pip install transformers")
    return pytest.importorskip("rwkv7_hf", reason="compares with it: pip install rwkv7-hf")


def hf_says(hf, folder):
    model = hf.RWKV7ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([TOKENS]), use_cache=True)


def hf_states_apart(state, cache):
    worst = 0.0
    for i, wkv in enumerate(cache.recurrent_state):
        worst = max(worst, (state[f"blocks.{i}.wkv"] - wkv.mT).abs().max().item())
        for name, peer in (("time", cache.attention_shift), ("channel", cache.ffn_shift)):
            shift = peer[i].reshape(1, -1)
            worst = max(worst, (state[f"blocks.{i}.{name}_shift"] - shift).abs().max().item())
    return worst


def test_rwkv7_hf_reads_what_its_own_converter_makes_and_so_do_we(hf, tmp_path):
    from rwkv7_hf import converter

    torch.save(case("head64"), tmp_path / "theirs.pth")
    converter.convert(
        argparse.Namespace(
            input=str(tmp_path / "theirs.pth"), output=str(tmp_path / "hf"), precision="fp32",
            attn_mode="reference", fuse_norm=False, low_memory=False, max_shard_size="1GB",
            vocab_file=None, adapter_layout="reference",
        )
    )  # fmt: skip
    actual = FLA().read(tmp_path / "hf")
    expected = RWKVLM.ours(case("head64"))
    assert actual.tensors.keys() == expected.tensors.keys()
    assert all(
        torch.equal(actual.tensors[name], expected.tensors[name]) for name in expected.tensors
    )
    peer = hf_says(hf, tmp_path / "hf")
    logits, state = Ours(actual)(TOKENS)
    assert apart(logits, peer.logits[0]) < 1
    assert hf_states_apart(state, peer.past_key_values) < 5e-5


def test_rwkv7_hf_reads_what_we_write(hf, tmp_path):
    """With heads of 32, whose norm has another eps there than in RWKV-LM."""
    converted = RWKVLM.ours(case("narrow"))
    converted.config["group_norm_eps"] = 32 * 1e-5
    FLA().write(converted.tensors | converted.tables, converted.config, tmp_path / "fla")
    peer = hf_says(hf, tmp_path / "fla")
    logits, state = Ours(converted)(TOKENS)
    assert apart(logits, peer.logits[0]) < 1
    assert hf_states_apart(state, peer.past_key_values) < 5e-5
    turned = {name: tensor.mT if name.endswith("wkv") else tensor for name, tensor in state.items()}
    assert hf_states_apart(turned, peer.past_key_values) > 1e-2
