"""The report: one file, nothing fetched, everything escaped, pictures that are pictures."""

import io
import re

import numpy as np
import pytest
import soundfile
from test_ab_parts import plan

from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.report import html, wording
from wishbone.core.evaluate.statistics.compare import analyse
from wishbone.core.report import charts

AB = "install the extra: pip install wishbone-tts[ab]"


def tone(seconds, rate=24_000):
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype("float32")


@pytest.fixture
def finished(tmp_path):
    """A result with three prompts, one failure and a text that tries to be a script."""
    given = plan(prompts=3)
    items = Items(tmp_path / "items.jsonl")
    for arm in ("old", "new"):
        for i, prompt in enumerate(given.prompts):
            failed = arm == "new" and i == 2
            audio = f"audio/{arm}/{prompt.key}-0.flac"
            generate.write(tmp_path / audio, tone(0 if failed else 0.5 + i), 24_000)
            told = {
                "text": f"<script>alert({i})</script> words", "audio": audio,
                "heard": "" if failed else "words & more", "errors": 1, "words": 2,
                "dnsmos": 3.1, "rtf": 0.2, "failure": "empty" if failed else "",
                "seconds": 1.0, "token_rate": 90.0,
            }  # fmt: skip
            items.add(arm, prompt.key, 0, told)
    length = [{"seconds": s, "step_ms": 1 + s, "state_bytes": 1000 * s} for s in (0.0, 10.0)]
    sizes = {str(s): 10 for s in (1, 10, 60)}
    budget = {
        "backbone": "x", "parameters": 10, "parameters_backbone": 5, "parameters_decoder": 3,
        "flops_per_second": sizes, "state_bytes": sizes, "dtype": "float32",
        "training_codes": None, "training_steps": 4, "training_positions": None,
        "held_out_loss": None,
    }  # fmt: skip
    from dataclasses import asdict

    result = {
        "name": "test", "about": "", "quick": False, "confounded": [], "unmatched": "",
        "arms": [{"key": a.key, "system": a.system, "config": dict(a.config)} for a in given.arms],
        "differences": [
            {"key": "backbone.name", "values": {"old": "a", "new": None}, "meant": True}
        ],
        "prompts": [
            {"key": p.key, "text": f"<script>alert({i})</script> words"}
            for i, p in enumerate(given.prompts)
        ],
        "seeds": 1,
        "metrics": {key: asdict(m) for key, m in given.metrics.items()},
        "signatures": {"wer": "wer|test"}, "budget": {"old": budget, "new": budget},
        "length": {"old": length, "new": length}, "memory": {"old": {}, "new": {}},
        "machine": {"processor": "p", "cores": 2, "threads": 1, "load": 0.1, "gpu": ""},
        "reference": {}, "reference_folder": "",
        "provenance": {
            "command": ["wishbone"], "began": "now", "ended": "then", "python": "3",
            "distributions": {"torch": "2"}, "git": "", "seed": 1, "weights": {}, "trained": {},
        },
        **analyse(items, given),
    }  # fmt: skip
    return result, items, tmp_path


def test_the_report_is_one_file_without_a_network(finished):
    pytest.importorskip("jinja2", reason=AB)
    pytest.importorskip("matplotlib", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    page = html.write_report(*finished).read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(0)" in page
    assert page.count("<audio") == 5
    assert "failed: empty" in page
    # two charts, and a spectrogram for each player
    assert page.count('src="data:image/svg+xml;base64,') == 2
    assert page.count('src="data:image/png;base64,') == 5
    assert all(f"--key: {charts.colour(place)}" in page for place in (0, 1))


def test_the_audio_in_it_is_what_was_made(finished):
    import base64

    pytest.importorskip("jinja2", reason=AB)
    pytest.importorskip("matplotlib", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    page = html.write_report(*finished).read_text(encoding="utf-8")
    first = re.search(r"data:audio/flac;base64,([^\"]+)", page).group(1)
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(first)), dtype="float32")
    assert rate == 24_000
    assert np.allclose(audio, tone(0.5), atol=1e-4)


def test_players_show_losses_gains_and_a_plain_sample(tmp_path):
    given = plan(prompts=40)
    items = Items(tmp_path / "items.jsonl")
    for i, prompt in enumerate(given.prompts):
        change = {3: 9, 7: -2, 8: -3}.get(i, 0)
        for arm, errors in (("old", 4), ("new", 4 + change)):
            items.add(arm, prompt.key, 0, {"words": 20, "errors": errors, "failure": ""})
    result = {
        "arms": [{"key": "old"}, {"key": "new"}],
        "prompts": [{"key": p.key, "text": p.text} for p in given.prompts],
    }
    chosen = {prompt["key"]: why for prompt, why in html.choose(result, items)}
    assert len(chosen) == html.PLAYERS
    assert "worse" in chosen["003"]
    assert "better" in chosen["007"] and "better" in chosen["008"]
    assert sum("plain" in why for why in chosen.values()) == html.PLAYERS - 3


def test_words_that_were_wrong_or_missed_are_marked():
    pytest.importorskip("whisper_normalizer", reason=AB)
    assert html.marked("One small step.", "one tall") == [
        ("same", "one"), ("missing", "small step"), ("wrong", "tall"),
    ]  # fmt: skip


def test_quick_and_confounded_results_say_so_first(finished):
    result, _, _ = finished
    assert wording.warnings(result) == []
    assert wording.shows(result)
    loud = result | {"quick": True, "confounded": ["decoder.width"], "unmatched": "B is larger."}
    said = " ".join(wording.warnings(loud))
    assert "SMOKE TEST" in said and "decoder.width" in said and "B is larger." in said
    assert wording.shows(loud) == []
    assert any("two trained models" in line for line in wording.cannot(loud))
