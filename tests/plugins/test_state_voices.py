"""A learned state as a file: of the plain system, of no other, and RWKV-PEFT's in and out."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
pytest.importorskip("gruut", reason="pip install gruut for the phoneme tokenizer")

from rwkv7_files import trained_looking  # noqa: E402
from tiny_corpus import write_recipe  # noqa: E402

from wishbone.core.contract.errors import CapabilityError, CheckpointError, UsageError  # noqa: E402
from wishbone.plugins.rwkv7.backbone import RWKV7  # noqa: E402
from wishbone.plugins.rwkv7.convert import RWKVLM  # noqa: E402
from wishbone.plugins.state_tuning.files import read_time_state, write_time_state  # noqa: E402

TEXT = "We go there now."


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a plain training, and two that learned a state on top of it."""
    from wishbone.core.cli.train import main

    folder = tmp_path_factory.mktemp("state")
    recipe = str(write_recipe(folder))
    backbone = "system.backbone={name: rwkv7, width: 32, layers: 2, head_size: 16}"
    assert main([recipe, f"out={folder}/plain", backbone, "steps=40", "evaluate_every=0"]) == 0
    text = Path(recipe).read_text()
    system = (
        f"system: {{base: {folder}/plain/export, backbone: {{name: state_tuned, base: below}}}}"
    )
    over = folder / "tuned.yaml"
    over.write_text(f"{system}\n{text[text.index('data:') :]}")
    tuned = [str(over), "learning_rate=1.0e-3", "steps=30", "evaluate_every=30", "ema=0"]
    assert main([*tuned, f"out={folder}/tuned", "freeze=[head,tables]"]) == 0
    assert main([*tuned, f"out={folder}/both"]) == 0
    return folder


def convert(*words):
    from wishbone.plugins.state_tuning.__main__ import main

    return main([str(word) for word in words])


def system(folder):
    from wishbone.core.speak.speaker import build
    from wishbone.core.system.spec import read

    # no training gave the decoder weights; those it begins with are to be the same
    torch.manual_seed(0)
    return build(read(folder))


def said(one, voice=None):
    from wishbone.core.speak import text_to_speech

    return text_to_speech.say(one, TEXT, voice, seed=3).samples


def test_nothing_but_the_state_was_trained(runs):
    from wishbone.core.weights.tensor_files import read_tensors

    plain = read_tensors(runs / "plain" / "export" / "model.safetensors")
    tuned = read_tensors(runs / "tuned" / "export" / "model.safetensors")
    for name, tensor in plain.items():
        assert torch.equal(tuned[name.replace("backbone.", "backbone.base.")], tensor)
    state_names = [name for name in tuned if name.startswith("backbone.begin.")]
    assert len(tuned) == len(plain) + len(state_names) and len(state_names) == 2
    assert all(tuned[name].abs().max() > 0 for name in state_names)


def test_the_voice_makes_the_plain_system_say_what_the_tuned_one_says(runs, tmp_path):
    from wishbone.core.speak.server import Server
    from wishbone.core.speak.voice import Voice

    assert convert(runs / "tuned" / "export", tmp_path / "style.yaml") == 0
    plain, tuned = system(runs / "plain" / "export"), system(runs / "tuned" / "export")
    expected = said(tuned)
    assert torch.equal(said(plain, tmp_path / "style.yaml"), expected)
    assert not torch.equal(said(plain), expected)
    voice = Voice.load(tmp_path / "style.yaml")
    # with what the prompt leaves computed ahead, and told apart from it
    assert torch.equal(said(plain, voice.with_state(plain)), expected)
    # in a batch with others
    chunks = torch.cat(list(Server(plain, 2).stream(TEXT, voice, seed=3)))
    torch.testing.assert_close(chunks, expected, rtol=1e-4, atol=1e-4)
    turned = {name: part.transpose(2, 3) for name, part in voice.start.items()}
    assert not torch.equal(said(plain, Voice.from_start(plain, turned)), expected)
    size = (tmp_path / "style.safetensors").stat().st_size
    assert size < 4 * 2 * 2 * 16 * 16 + 1000


def test_a_state_of_another_model_is_refused(runs, tmp_path):
    from wishbone.core.speak.voice import Voice

    convert(runs / "tuned" / "export", tmp_path / "style.yaml")
    plain = system(runs / "plain" / "export")
    with torch.no_grad():
        plain.model.backbone.blocks[0].time_mix.k_k[0] += 1e-3
    with pytest.raises(CheckpointError, match="was learned with another model") as caught:
        said(plain, tmp_path / "style.yaml")
    assert len(caught.value.lines()) == 3 and "learned with" in caught.value.do
    voice = Voice.load(tmp_path / "style.yaml")
    with pytest.raises(CheckpointError, match="no state of this system's model"):
        Voice.from_start(plain, {"blocks.7.wkv": torch.zeros(1, 2, 16, 16)})
    with pytest.raises(CheckpointError, match="no state of this system's model"):
        Voice.from_start(plain, {"blocks.0.wkv": torch.zeros(1, 2, 8, 8)})
    # an instruction changes the prompt, and leaves whose state it is
    assert voice.instructed("calmly").model == voice.model
    with pytest.raises(CapabilityError, match="none with a learned state"):
        convert(runs / "plain" / "export", tmp_path / "other.yaml")
    with pytest.raises(UsageError, match="exists already"):
        convert(runs / "tuned" / "export", tmp_path / "style.yaml")


def test_head_and_tables_that_were_trained_with_it_come_along(runs, tmp_path):
    style, folder = tmp_path / "style.yaml", tmp_path / "plain"
    convert(runs / "both" / "export", style, "--plain", folder)
    expected = said(system(runs / "both" / "export"))
    assert torch.equal(said(system(folder), style), expected)
    with pytest.raises(CheckpointError, match="another model"):
        said(system(runs / "plain" / "export"), style)


def test_time_state_goes_out_and_comes_in_bit_by_bit(runs, tmp_path):
    from wishbone.core.speak.voice import Voice

    convert(runs / "tuned" / "export", tmp_path / "style.yaml")
    expected = Voice.load(tmp_path / "style.yaml").start
    for ending in ("pth", "safetensors"):
        file = tmp_path / f"theirs.{ending}"
        convert(tmp_path / "style.yaml", file)
        assert all(torch.equal(p, expected[n]) for n, p in read_time_state(file).items())
        back = tmp_path / f"back-{ending}.yaml"
        convert(file, back, "--system", runs / "plain" / "export")
        again = Voice.load(back)
        assert again.start.keys() == expected.keys()
        assert all(torch.equal(again.start[name], part) for name, part in expected.items())
        assert again.model == Voice.load(tmp_path / "style.yaml").model
    names = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert sorted(names) == ["blocks.0.att.time_state", "blocks.1.att.time_state"]
    assert names["blocks.0.att.time_state"].shape == (2, 16, 16)
    with pytest.raises(UsageError, match="does not say to which"):
        convert(tmp_path / "theirs.pth", tmp_path / "nobody.yaml")


def test_files_that_are_none_are_refused(tmp_path):
    torch.save({"blocks.1.att.time_state": torch.zeros(2, 4, 4)}, tmp_path / "gap.pth")
    with pytest.raises(CheckpointError, match=r"has those of \[1\]"):
        read_time_state(tmp_path / "gap.pth")
    torch.save({"emb.weight": torch.zeros(2, 4)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="of none"):
        read_time_state(tmp_path / "model.pth")
    with pytest.raises(UsageError, match="no place for blocks.0.time_shift"):
        write_time_state(tmp_path / "out.pth", {"blocks.0.time_shift": torch.zeros(1, 4)})
    with pytest.raises(UsageError, match="exists already"):
        write_time_state(tmp_path / "gap.pth", {"blocks.0.wkv": torch.zeros(1, 2, 4, 4)})


OFFICIAL = """
import sys, torch
from rwkv.model import RWKV
folder = sys.argv[1]
model = RWKV(model=folder + "/model", strategy="cpu fp32")
state = model.generate_zero_state()
theirs = torch.load(folder + "/state.pth", weights_only=True)
for n in range(model.args.n_layer):
    # version 7 of the package has a place for it, and does not look for the name
    state[3 * n + 1] = theirs[f"blocks.{n}.att.time_state"].clone()
logits, after = model.forward([3, 1, 4, 1, 5, 9, 2, 6], state, full_output=True)
torch.save({"logits": logits, "after": after}, folder + "/found.pt")
"""


def test_the_official_runtime_reads_it_the_same_way_round(tmp_path):
    if importlib.util.find_spec("rwkv") is None:
        pytest.skip("compares with the official runtime: pip install rwkv")
    tensors = trained_looking(layers=2, width=64, head_size=32, ffn_width=128)
    torch.save(tensors, tmp_path / "model.pth")
    random = torch.Generator().manual_seed(3)
    start = {f"blocks.{n}.wkv": torch.randn(1, 2, 32, 32, generator=random) for n in range(2)}
    write_time_state(tmp_path / "state.pth", start)
    chosen = {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(tmp_path)],
        cwd=tmp_path, env=os.environ | chosen, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    official = torch.load(tmp_path / "found.pt", weights_only=True)
    converted = RWKVLM.ours(tensors)
    fields = {key: value for key, value in converted.config.items() if key != "name"}
    backbone = RWKV7(RWKV7.Config(**fields)).eval()
    backbone.load_state_dict(converted.tensors)

    def apart(begin):
        vectors = converted.tables["tables.embedding"][[3, 1, 4, 1, 5, 9, 2, 6]][None]
        with torch.no_grad():
            y, after = backbone(vectors, backbone.init_state(1) | begin)
        logits = y[0] @ converted.tables["tables.head"].T
        state = (after["blocks.1.wkv"][0] - official["after"][4]).abs().max()
        return max(float((logits - official["logits"]).abs().max()), float(state))

    assert apart(start) < 2e-5
    # the other way round, and nothing at all, are far from it
    assert apart({name: part.transpose(2, 3) for name, part in start.items()}) > 1e-2
    assert apart({}) > 1e-2
