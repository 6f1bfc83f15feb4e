"""Recordings judged in parts: the rows of one process, whoever judged what and was killed."""

import json

import numpy as np
import pytest
import soundfile

from wishbone.core.cli.evaluation import evaluate, evaluations
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.clip_step import ClipStep
from wishbone.core.evaluate.measure.clips import list_folder

judged: list[str] = []


class Panel:
    """Judges that need no package; they note what they hear."""

    def __init__(self, *_):
        self.first = self
        self.signatures = {"wer": "wer|toy"}

    def map(self, judge, clips):
        for clip in clips:
            judged.append(clip.key)
            facts = {"key": clip.key, "text": clip.text, "seconds": clip.seconds, "failure": ""}
            yield {**facts, "errors": int(clip.key) % 2, "words": 4, "dnsmos": 3.0}


@pytest.fixture
def files(tmp_path):
    judged.clear()
    folder = tmp_path / "spoken"
    folder.mkdir()
    texts = [f"Sentence {number}." for number in range(7)]
    for number in range(7):
        tone = 0.1 * np.sin(np.arange(800 + number) / 5)
        soundfile.write(folder / f"{number:03d}.wav", tone, 8_000)
    (tmp_path / "list.txt").write_text("\n".join(texts) + "\n")
    return list_folder(folder, texts)


def step(files, out):
    made = ClipStep(out, files, ["wer"], Panel)
    made.prepare()
    return made


def test_parts_have_the_rows_of_one(files, tmp_path):
    alone, shared = step(files, tmp_path / "one"), step(files, tmp_path / "three")
    assert alone.unfinished() == 7
    assert [done.name for done in alone.run()] == [path.stem for path, _ in files]
    for rank in (1, 2, 0):
        list(shared.run(None, rank, 3))
    assert shared.rows() == alone.rows() and shared.unfinished() == 0
    judged.clear()
    assert list(shared.run(None, 1, 2)) == [] and judged == []


def test_a_part_that_was_killed_goes_on_with_what_is_missing(files, tmp_path):
    one = step(files, tmp_path / "one")
    running = one.run()
    next(running), next(running)
    running.close()
    (path,) = (tmp_path / "one").glob("rows-*.jsonl")
    path.write_bytes(path.read_bytes()[:-9])
    assert one.unfinished() == 6
    judged.clear()
    list(one.run())
    assert judged == ["001", "002", "003", "004", "005", "006"] and len(one.rows()) == 7


def test_a_folder_of_other_recordings_or_metrics_is_left_alone(files, tmp_path):
    list(step(files, tmp_path / "one").run())
    for other in (ClipStep(tmp_path / "one", files[:3], ["wer"], Panel),
                  ClipStep(tmp_path / "one", files, ["cer"], Panel)):  # fmt: skip
        with pytest.raises(UsageError, match="something else"):
            other.prepare()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        step(files, tmp_path / "mine")


def test_the_command_judges_a_part_and_prints_when_all_are_there(
    files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(evaluations, "_panel", lambda options: Panel())
    monkeypatch.setattr(evaluations, "report_more", lambda *_: None)
    monkeypatch.setattr(evaluations, "report", lambda title, rows, items: print(len(rows), "rows"))
    words = ["audio", str(tmp_path / "spoken"), "--text", str(tmp_path / "list.txt")]
    out = ["--out", str(tmp_path / "judged"), "--json", str(tmp_path / "all.json")]
    assert evaluate.main([*words, *out, "--part", "1/2"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "part 1 of 2: 4 recordings; 3 are left" in printed.err
    assert evaluate.main([*words, *out]) == 0
    assert capsys.readouterr().out == "7 rows\n" and len(judged) == 7
    items = json.loads((tmp_path / "all.json").read_text())["items"]
    assert [row["key"] for row in items] == [f"{n:03d}" for n in range(7)]
    with pytest.raises(UsageError, match="Parts need a folder"):
        evaluate.main([*words, "--part", "1/2"])
