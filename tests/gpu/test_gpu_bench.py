"""The suites of ``wishbone bench`` that need a GPU, on tiny sizes; the real ones are a command."""

import json

import pytest

from wishbone.core.cli.bench import main


@pytest.mark.parametrize("suite", ["kernel-gpu", "memories-gpu", "decode-gpu"])
def test_a_suite_runs_to_its_end(suite, tmp_path, capsys):
    assert main([suite, "--quick", "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "bench.json").read_text())
    (figures,) = result["suites"]
    assert figures["stopped"] == ""
    ours = {key: c for key, c in figures["contenders"].items() if not key.startswith("fla")}
    assert {key: c["status"] for key, c in ours.items()} == dict.fromkeys(ours, "measured")
    assert result["machine"]["gpu"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: none")


def test_a_suite_of_the_cpu_runs_on_a_gpu_too(tmp_path):
    words = ["growth", "--quick", "device=cuda", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    result = json.loads((tmp_path / "out" / "bench.json").read_text())
    statuses = {c["status"] for c in result["suites"][0]["contenders"].values()}
    assert statuses == {"measured"}
