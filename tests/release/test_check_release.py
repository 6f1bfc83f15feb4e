"""The check for a real release, run on a made-up one, which passes, and on broken ones."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
sys.path.insert(0, str(Path(__file__).parent))

import check_release
import cosyvoice2_release as releases

pytest.importorskip(
    "onnxruntime", reason="ears of the release: pip install 'wishbone-tts[cosyvoice2]'"
)
SHORT = {"layout": {"name": "cosyvoice2", "min_code_ratio": 0.2, "max_code_ratio": 0.4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return releases.write(tmp_path_factory.mktemp("made") / "release")


def test_a_made_up_release_passes(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check_release, "TEXTS", {"en": "We went there.", "zh": "今天好。"})
    system = releases.write_system(tmp_path / "tiny.yaml", folder, **SHORT)
    code = check_release.main([str(folder), "--system", str(system), "--out", str(tmp_path / "o")])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    looked = {line.split(":")[0].split(maxsplit=1)[1] for line in lines if line.startswith("ok ")}
    assert looked >= {
        "files", "yaml", "load", "voice", "zero-shot en", "zero-shot zh", "cross-lingual",
        "instruct", "conversion", "stream", "saved voice", "text as it arrives",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "en.wav", "zh.wav", "cross-lingual.wav", "instruct.wav", "conversion.wav",
    }  # fmt: skip


def test_sizes_other_than_the_public_ones_fail(folder):
    report = check_release.Report()
    report.check("llm.pt", lambda: check_release._names(folder, "llm.pt"))
    assert report.failed == ["llm.pt"]


def test_a_broken_release_fails(folder, tmp_path, capsys):
    broken = tmp_path / "release"
    shutil.copytree(folder, broken)
    (broken / "hift.pt").write_bytes((broken / "hift.pt").read_bytes()[:1000])
    (broken / "campplus.onnx").unlink()
    system = releases.write_system(tmp_path / "tiny.yaml", broken)
    assert check_release.main([str(broken), "--system", str(system)]) == 4
    printed = capsys.readouterr().out
    assert "FAILED files" in printed and "FAILED load" in printed and "2 failed" in printed


def test_a_step_at_a_join_is_seen():
    """Negative control of the look at seams."""
    import torch

    smooth = torch.sin(torch.arange(1000) / 50)
    assert "largest step" in check_release._seam(smooth, [300, 600])
    torn = smooth.clone()
    torn[600:] += 0.5
    # the largest step anywhere is then the one at the join, so the bound is on the rest
    with pytest.raises(AssertionError, match="at a join"):
        check_release._seam(torn, [300, 600])
