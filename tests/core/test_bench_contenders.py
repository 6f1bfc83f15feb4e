"""The real contenders on tiny sizes: same weights, same logits, and a change that is noticed."""

import re

import numpy as np
import pytest
import torch

from wishbone.core.bench import rounds
from wishbone.core.bench.built_in.models import (
    Wishbone,
    WishboneConfig,
    accelerated_head,
    build,
    grown,
    random_weights,
)
from wishbone.core.bench.rounds import differences
from wishbone.core.bench.suite import read_plan
from wishbone.core.bench.worker import _answer, timed_round
from wishbone.core.cli.bench import main, own_overrides
from wishbone.core.config.compose import bundled
from wishbone.core.contract.errors import CapabilityError, UsageError
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.registry.loader import registry
from wishbone.core.registry.registry import import_target

MODEL = {
    "backbone": {"name": "rwkv7", "width": 128, "layers": 2},
    "vocabulary": 96,
    "seed": 3,
}
WHAT = {"ids": [(i * 7 + 3) % 96 for i in range(24)], "way": "steps"}
NARROW = {
    "decode": ["bfloat16", "int8"],
    "prefill": ["bfloat16"],
    "growth": ["rwkv7-bf16", "gqa-bf16"],
}
"""Contenders that may need a compiler."""
PEERS = "pip install 'wishbone-tts[bench]'"


def write_weights(folder, name, **config):
    """Write the files that the contender ``name`` reads into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = registry().get("contender", name)
    for file in kind.files(kind.Config(**config)):
        kind.write_file(folder / file, *random_weights(MODEL))


def contender(name, folder, **config):
    kind = registry().get("contender", name)
    made = kind(kind.Config(**config), Job(MODEL, "cpu", 1, str(folder)))
    made.load()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    write_weights(path, "wishbone")
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return contender("wishbone", folder, engine="eager").check(WHAT)


def test_our_ways_agree(ours, folder):
    model = contender("wishbone", folder, engine="eager")
    assert differences(model.check({**WHAT, "way": "prefill"}), ours)[1] < 1e-5
    narrow = contender("wishbone", folder, engine="eager", prefill="bfloat16")
    off = differences(narrow.check({**WHAT, "way": "prefill"}), ours)[1]
    assert 1e-4 < off < 0.05


def test_the_official_package_agrees(ours, folder):
    pytest.importorskip("rwkv", reason=f"the official package: {PEERS}")
    write_weights(folder, "rwkv")
    theirs = contender("rwkv", folder)
    for way in ("steps", "prefill"):
        assert differences(theirs.check({**WHAT, "way": way}), ours)[1] < 1e-5
    assert len(theirs.run("step", 2)["seconds"]) == 2
    assert len(theirs.run("prefill 8", 1)["seconds"]) == 1


@pytest.mark.parametrize(("file", "tolerance"), [("f32", 1e-5), ("f16", 5e-3), ("q8_0", 0.05)])
def test_llama_cpp_agrees(ours, folder, file, tolerance):
    pytest.importorskip("llama_cpp", reason=f"llama.cpp: {PEERS}")
    pytest.importorskip("gguf", reason=f"writes its files: {PEERS}")
    write_weights(folder, "llama.cpp", file=file)
    theirs = contender("llama.cpp", folder, file=file)
    for way in ("steps", "prefill"):
        assert differences(theirs.check({**WHAT, "way": way}), ours)[1] < tolerance
    assert len(theirs.run("step", 2)["seconds"]) == 2


def test_a_swap_in_the_file_is_noticed(ours, folder, monkeypatch):
    pytest.importorskip("llama_cpp", reason=f"llama.cpp: {PEERS}")
    pytest.importorskip("gguf", reason=f"writes its files: {PEERS}")
    from wishbone.plugins.bench_peers import gguf

    monkeypatch.setattr(gguf, "FUSED", ("x_r", "x_w", "x_v", "x_k", "x_a", "x_g"))
    write_weights(folder / "wrong", "llama.cpp", file="f32")
    off = differences(contender("llama.cpp", folder / "wrong", file="f32").check(WHAT), ours)[1]
    assert off > 1e-3


def test_the_file_of_llama_cpp_has_its_names_and_shapes():
    pytest.importorskip("gguf", reason=f"the writer: {PEERS}")
    from wishbone.plugins.bench_peers.gguf import arranged
    from wishbone.plugins.rwkv7.convert import RWKVLM

    tensors, config = random_weights(MODEL)
    named = arranged({n: t.numpy() for n, t in RWKVLM.theirs(tensors).items()})
    assert named["blk.1.time_mix_lerp_fused.weight"].shape == (6, 1, 1, 128)
    assert named["blk.1.time_mix_w1.weight"].shape == (32, 128)
    assert named["blk.1.time_mix_w2.weight"].shape == (128, 32)
    assert named["blk.0.time_mix_v1.weight"].shape == named["blk.0.time_mix_a1.weight"].shape
    assert named["blk.0.time_mix_r_k.weight"].shape == (128,)
    assert named["token_embd.weight"].shape == named["output.weight"].shape == (96, 128)
    assert len(named) == 6 + 2 * (6 + 6 + 16)
    assert config["width"] == 128


def test_weights_are_the_same_every_time_and_do_something():
    first, second = random_weights(MODEL)[0], random_weights(MODEL)[0]
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = random_weights({**MODEL, "seed": 4})[0]
    assert not torch.equal(first["blocks.0.time_mix.output.weight"],
                           other["blocks.0.time_mix.output.weight"])  # fmt: skip
    assert all(t.float().std() > 0 for n, t in first.items() if t.ndim > 1)


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_a_grown_state_is_of_the_length_it_says(name):
    kind = registry().get("backbone", name)
    backbone = kind(kind.small_config()).eval()
    with torch.inference_mode():
        state = grown(backbone, 37)
        held = sum(t.numel() * t.element_size() for t in state.values())
        assert held == backbone.state_bytes(37)
        real = backbone(torch.randn(1, 37, backbone.width))[1]
        assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in real.items()}
        if "length" in state:
            assert torch.equal(state["length"], real["length"])
        # and a step goes on from it
        assert backbone.step_(torch.randn(1, 1, backbone.width), state).isfinite().all()


def test_every_round_begins_at_the_context_it_is_named_for():
    slot = {"name": "transformer", "width": 32, "layers": 1, "heads": 2, "kv_heads": 1,
            "ffn_width": 32}  # fmt: skip
    job = Job({"vocabulary": 16, "seed": 0})
    model = Wishbone(WishboneConfig(engine="eager", backbone=slot), job)
    model.load()
    model.prepare("context 16")
    for _ in range(5):
        model.run("context 16", 6)
        assert 16 < int(model.states["context 16"]["length"]) <= 16 + 2 * 7
    assert int(model.initial["context 16"]["length"]) == 16


def test_a_state_without_room_is_refused(monkeypatch):
    slot = {"name": "transformer", "width": 32, "layers": 1, "heads": 2, "kv_heads": 1,
            "ffn_width": 32}  # fmt: skip
    model = Wishbone(
        WishboneConfig(engine="eager", backbone=slot), Job({"vocabulary": 16, "seed": 0})
    )
    model.load()
    monkeypatch.setattr("wishbone.core.bench.built_in.models.available_bytes", lambda: 10_000)
    assert model.prepare("context 16")["state_bytes"] == 16 * 128 + 8
    with pytest.raises(MemoryError, match="GB are free"):
        model.prepare("context 64")


def test_the_bytes_of_a_step_are_weights_and_state():
    job = Job({"vocabulary": 96, "seed": 0, "backbone": MODEL["backbone"]})
    model = Wishbone(WishboneConfig(engine="eager"), job)
    facts = model.load()
    backbone, head = build(job, MODEL["backbone"])
    read = sum(p.numel() for p in backbone.parameters()) + head.output.weight.numel()
    assert facts["step_bytes"] == 4 * read + 2 * backbone.state_bytes(0)
    model.config.weights = "int8"
    assert model._step_bytes() < 0.6 * facts["step_bytes"]


def test_a_head_without_the_engine_is_cast_and_goes_on(folder, ours):
    model = contender("wishbone", folder, engine="eager")
    with torch.inference_mode():
        assert accelerated_head(model.head, "graph", "bfloat16") == "eager"
    assert model.head.output.weight.dtype == torch.bfloat16
    assert 1e-4 < differences(model.check(WHAT), ours)[1] < 0.02
    with pytest.raises(CapabilityError):
        accelerated_head(model.head, "graph", "int8")


class Inside:
    """Stands in for a worker's process, so that a suite runs in this one."""

    def __init__(self, key, part, config, job, environment=None):
        kind = import_target(part)
        self.contender = kind(kind.Config(**config), job)

    def load(self):
        return self.contender.load()

    def prepare(self, case):
        return self.contender.prepare(case)

    def check(self, what):
        return _answer(self.contender, {"do": "check", "what": what})

    def run(self, case, count):
        return timed_round(self.contender, case, count)

    def close(self):
        pass


@pytest.mark.parametrize("suite", ["decode", "prefill", "growth", "kernel", "stack", "speech"])
def test_every_suite_of_the_cpu_runs_to_its_end(suite, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rounds, "Worker", Inside)
    out = tmp_path / "out"
    # no compiler is waited for here
    words = [suite, "--quick", "--rounds", "3", "--out", str(out)]
    monkeypatch.setattr("wishbone.core.bench.built_in.models.FASTEST", ("auto",))
    left_out = NARROW.get(suite, [])
    assert main([*words, *(f"contenders.{key}=null" for key in left_out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("verdict: none. This was a sanity run (--quick)")
    assert (out / "bench.json").is_file() and (out / "bench.html").is_file()
    assert " failed, " not in printed and " lost, " not in printed and " differs, " not in printed


def test_a_suite_runs_in_processes_of_its_own(tmp_path, capsys):
    words = ["prefill", "--quick", "--rounds", "3", "contenders.bfloat16=null"]
    peers = [f"contenders.{key}=null" for key in ("rwkv", "llama-f32", "llama-f16", "eager")]
    assert main([*words, *peers]) == 0
    assert re.search("Wishbone float32 +prefill 512", capsys.readouterr().out)


@pytest.mark.parametrize("suite", ["kernel-gpu", "memories-gpu", "decode-gpu"])
def test_without_a_gpu_its_suites_say_so(suite):
    plan = read_plan(suite)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: 'wishbone bench' runs these")
    asked = [e for e in plan.entries.values() if e.checked]
    assert asked and all("CUDA" in e.missing for e in asked if e.name != "memory")


SUITES = sorted((bundled() / "bench").glob("*.yaml"))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_can_be_read(path, quick):
    plan = read_plan(path.stem, quick=quick)
    assert plan.entries and plan.suite.ratios and plan.suite.about
    assert quick == ("tiny" in plan.suite.about)


def test_what_must_be_shown_is_asked_for():
    """The ratios of issue 3; ``None`` is asked of none."""
    asked = {
        (name, ratio.title): ratio.at_least or ratio.at_most
        for name in ("decode", "prefill", "growth")
        for ratio in read_plan(name).suite.ratios
    }
    assert sorted(v for (name, _), v in asked.items() if name == "decode" and v) == [
        0.75, 0.8, 0.85, 1.45,
    ]  # fmt: skip
    assert sorted(v for (name, _), v in asked.items() if name == "prefill" and v) == [
        1.05,
        1.1,
        1.7,
    ]
    assert sorted(v for (name, _), v in asked.items() if name == "growth" and v) == [
        1.05, 1.35, 2.3,
    ]  # fmt: skip


def test_the_arms_of_growth_are_of_one_size():
    counts = []
    for entry in read_plan("growth").entries.values():
        slot = dict(entry.config.backbone)
        kind = registry().get("backbone", slot.pop("name"))
        counts.append(kind.count_parameters(kind.Config(**slot)))
    assert max(counts) / min(counts) < 1.01


def test_an_override_may_name_its_suite():
    names, words = ["decode", "path/mine.yaml"], ["threads=2", "decode.rounds=3", "mine.count=4"]
    assert own_overrides("decode", names, words) == ["threads=2", "rounds=3"]
    assert own_overrides("path/mine.yaml", names, words) == ["threads=2", "count=4"]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(UsageError, match="holds something"):
        main(["decode", "--out", str(tmp_path)])
    with pytest.raises(UsageError, match="No suite"):
        main(["rounds=3"])


def test_memory_moves_the_bytes_it_says():
    made = contender("memory", "", megabytes=4)
    facts = made.load()
    assert facts["case_bytes"] == {"read": 4 * 2**20, "copy": 8 * 2**20}
    assert len(made.run("read", 2)["seconds"]) == len(made.run("copy", 2)["seconds"]) == 2
    assert np.isfinite(made.run("read", 1)["seconds"]).all()
