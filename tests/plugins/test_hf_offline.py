"""Models of transformers without a network: nothing is asked for unless somebody says so."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'")

GUARD = """
import socket
asked = []
def refused(self_or_host, *where, **named):
    asked.append(str(where or self_or_host))
    raise OSError("there is no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
"""
"""Everything that leaves the machine goes through one of these three."""

SIZES = {
    "small": {"layers": 3, "width": 48, "heads": 3, "kv_heads": 1, "ffn_width": 128, "rows": 200},
    # SmolLM-135M's, of its config.json
    "full": {"layers": 30, "width": 576, "heads": 9, "kv_heads": 3, "ffn_width": 1536,
             "rows": 49152},
}  # fmt: skip
CHOICE = os.environ.get("WISHBONE_HF_SIZE", "small")


def alone(code, folder, *words, **environment):
    """Run code in a process of its own that has no network -> what it printed last, as JSON.

    It runs in ``folder``: in that of the sources, transformers would take ours for its "kernels".
    """
    done = subprocess.run(
        [sys.executable, "-c", GUARD + code, *map(str, words)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


EVERYTHING = """
import json, sys, torch
from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.system.loading import load_part
from wishbone.plugins.hf.backbone import HF, HFConfig, tiny_config
from wishbone.plugins.hf.codecs import CODECS, HFCodecConfig, HFDecoder, HFSpeechTokenizer
from wishbone.plugins.hf.families import FAMILIES
from wishbone.plugins.hf.report import hf_report
with torch.no_grad():
    for family in FAMILIES:
        HF(tiny_config(family)).eval()(torch.zeros(1, 3, 64))
HF(tiny_config("olmo2"))
with torch.device("meta"):
    for family in CODECS:
        HFDecoder(HFCodecConfig(family)), HFSpeechTokenizer(HFCodecConfig(family))
hf_report()
errors = []
for kind, values in (
    ("backbone", {"name": "hf", "weights": "acme/model"}),
    ("decoder", {"name": "hf", "weights": "acme/codec"}),
):
    slot = parse_slot({kind: values}, kind)
    with torch.device("cpu"):
        part = slot.build()
    try:
        load_part(part, slot.weights, kind)
    except CheckpointError as error:
        errors.append(f"{error.what} {error.do}")
before = len(asked)
try:
    HFConfig(weights="acme/model", download=True)
except CheckpointError as error:
    errors.append(error.what)
print(json.dumps([before, len(asked), errors]))
"""


def test_nothing_is_asked_for_unless_download_is_said(tmp_path):
    """Every family and every codec is built; an id without ``download`` is no folder, and so said.

    The control: with ``download`` the guard sees an attempt.
    """
    # what earlier runs cached of the hub must not hide a request
    before, after, errors = alone(
        EVERYTHING, tmp_path, HF_HOME=str(tmp_path / "hub"), WISHBONE_CACHE=str(tmp_path / "cache")
    )
    assert before == 0 and after > 0
    assert "download: true" in errors[0] and "none is fetched" in errors[1]
    assert errors[2].startswith("The model cannot be fetched")


SPEECH_FROM_TEXT = """
import json, resource, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
from wishbone.core.config.compose import Config
from wishbone.core.speak.speaker import build
from wishbone.core.system.spec import resolve
from wishbone.core.config.compose import compose, merge
size, folder = json.loads(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
with torch.device("cpu"):
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=size["rows"], hidden_size=size["width"], num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"], num_key_value_heads=size["kv_heads"],
        intermediate_size=size["ffn_width"], rope_theta=10000.0, tie_word_embeddings=True,
    )).to(torch.bfloat16)
made.save_pretrained(folder)
layer = made.model.layers[-1].mlp.down_proj.weight.float().clone()
count = sum(p.numel() for p in made.parameters())
del made
values = merge(dict(compose("quickstart")), {"backbone": {"name": "hf", "weights": folder}})
begin = time.monotonic()
system = build(resolve(Config(values)))
seconds = time.monotonic() - begin
same = torch.equal(system.model.backbone.model.layers[-1].mlp.down_proj.weight, layer)
codes = 0
begin = time.monotonic()
for chunk in system.stream("Hello.", seed=1):
    codes += len(chunk)
    break
print(json.dumps({
    "asked": len(asked), "released": count, "same": same, "samples": codes,
    "build_seconds": seconds,
    "body": sum(p.numel() for p in system.model.backbone.parameters()),
    "stream_seconds": time.monotonic() - begin,
    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


@pytest.mark.timeout(600)
def test_a_folder_of_smollms_kind_becomes_a_speech_model(tmp_path, record_property):
    """Made-up weights in bfloat16; WISHBONE_HF_SIZE=full for SmolLM-135M's own size."""
    result = alone(SPEECH_FROM_TEXT, tmp_path, json.dumps(SIZES[CHOICE]), tmp_path / "release")
    print(result)
    for name, value in result.items():
        record_property(name, value)
    assert result["asked"] == 0 and result["same"] and result["samples"] > 0
    if CHOICE == "full":
        assert 134e6 < result["released"] < 135e6 and 106e6 < result["body"] < 107e6
