"""Synthesisers beside each other: what speaking costs, who falls out, and the table."""

import json

import numpy as np
import pytest
import soundfile
from bench_toys import FOLDER
from speaking_toys import RATE, Tone, ToneConfig

from wishbone.core.bench.built_in.speaking import WARM_UP, receive
from wishbone.core.cli.evaluation import evaluate, peers
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.evaluate.statistics.metrics import QUALITY

SUITE = """
about: tones
cases: [say 1]
contenders:
  slow: {name: tone, title: The slow, delay: 0.2}
  fast: {name: tone, title: The fast}
  mute: {name: tone, title: The mute, dies_of: river}
  away: {name: tone, title: The absent, absent: it is on holiday}
"""


def contender(folder="", **config):
    made = Tone(ToneConfig(**config), Job({"sentences": ["One.", "Two."], "folder": str(folder)}))
    made.load()
    return made


def test_a_sentence_is_measured_and_written(tmp_path):
    times = contender(tmp_path / "tones", delay=0.05).run("sentence 1", 2)
    assert times["first_audio"] == pytest.approx([0.05, 0.05], abs=0.04)
    assert all(0.05 <= one < 0.2 for one in times["rtf"])
    # waiting is no work
    assert all(one < 0.05 for one in times["work"])
    audio, rate = soundfile.read(tmp_path / "tones" / "001.flac")
    assert (len(audio), rate) == (RATE, RATE) and abs(audio).max() == pytest.approx(0.3, abs=0.01)


def test_longer_cases_and_the_warm_up_leave_no_recording(tmp_path):
    for case in ("say 3", WARM_UP):
        assert contender(tmp_path / "tones").run(case, 1)["rtf"][0] > 0
    assert not (tmp_path / "tones").exists()


def test_who_says_nothing_has_no_times():
    assert contender(seconds=0.0).run("sentence 0", 1) == {"rtf": [], "work": [], "first_audio": []}


def test_a_late_chunk_is_seen():
    def chunks():
        yield np.zeros(160, np.float32)
        import time

        time.sleep(0.1)
        yield np.zeros(160, np.float32)

    delivery = receive(chunks(), RATE)
    assert 0.08 < delivery.late < 0.2 and delivery.samples == 320


@pytest.fixture
def suite(tmp_path, monkeypatch, register):
    """A suite of tones, and judges that need no package."""
    register("contender", "tone", "speaking_toys:Tone")
    monkeypatch.setenv("PYTHONPATH", FOLDER)
    path = tmp_path / "tones.yaml"
    path.write_text(SUITE)
    monkeypatch.setattr(peers, "need_packages", lambda keys: None)

    class Panel:
        def __init__(self, threads, judges):
            self.first = self
            self.signatures = {key: f"{key}|toy" for key in judges}

        def map(self, judge, clips):
            for number, clip in enumerate(clips):
                wrong = {"errors": number, "words": 4, "wer_base_errors": 0, "wer_base_words": 4}
                yield {"key": clip.key, "failure": "", "dnsmos": 3.0, **wrong}

    monkeypatch.setattr(peers, "Panel", Panel)
    (tmp_path / "text.txt").write_text("Come in.\nA walk along the river.\nGood night.\n")
    return path


def run(suite, *more):
    words = ["peers", str(suite), "--text", str(suite.parent / "text.txt"), *more]
    return evaluate.main(words)


def test_everybody_who_can_speaks_and_stands_in_the_table(suite, tmp_path, capsys):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    assert run(suite, "--out", str(out), "--json", str(figures)) == 0
    printed = capsys.readouterr()
    assert "The slow" in printed.out and "The fast" in printed.out
    assert "The mute" not in printed.out and "The absent" not in printed.out
    assert "The mute: left out, RuntimeError: that word is too long" in printed.err
    assert "The absent: left out, it is on holiday" in printed.err
    assert sorted(path.name for path in (out / "fast").iterdir()) == [
        "000.flac", "001.flac", "002.flac",
    ]  # fmt: skip
    values = json.loads(figures.read_text())
    slow, fast, mute, away = values["peers"]
    assert [one["title"] for one in values["peers"]][1] == fast["title"] == "The fast"
    assert mute["left_out"] and away["left_out"] and not fast["left_out"]
    assert len(slow["times"]) == len(slow["items"]) == 3
    assert min(one["first_audio"] for one in slow["times"]) > 0.2
    assert values["sentences"][1] == "A walk along the river."


def test_a_table_has_intervals_over_sentences(suite, tmp_path):
    rows = [{"errors": n % 2, "words": 4, "failure": "", "dnsmos": 3.0} for n in range(12)]
    (entry, *_) = peers.read_plan(str(suite)).entries.values()
    facts = {"parameters": 2_000_000, "licence": "CC0", "disk_bytes": 3 << 20}
    peer = peers.Peer(entry, facts, [{"work": 0.5, "first_audio": 0.02}], 5 << 20, rows=rows)
    lost = peers.Peer(entry, why="gone")
    content = peers.peers_table([peer, lost], ["wer", "dnsmos"])
    (line,) = content.rows
    cells = dict(zip(content.head, line, strict=True))
    assert cells["synthesiser"] == "The slow" and cells["licence"] == "CC0"
    assert cells["word errors (%)"].startswith("12.5 (") and cells["work (s/s)"] == "0.500"
    assert cells["first sound (ms)"] == "20" and cells["memory (MiB)"] == "5"
    assert cells["parameters (M)"] == "2.0" and cells["on disk (MiB)"] == "3"


def test_word_errors_of_a_long_sentence_count_more():
    rows = [{"errors": 0, "words": 18, "failure": ""}, {"errors": 2, "words": 2, "failure": ""}]
    # 2 of 20 words, not the mean of 0 and 100 %
    assert peers._value(rows, "wer").startswith("10.0 (")


def test_a_folder_with_something_in_it_is_left_alone(suite, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run(suite, "--out", str(tmp_path / "full"))


def test_a_suite_that_is_silent_is_refused():
    if not QUALITY:
        pytest.skip("no metric of quality is registered")
    with pytest.raises(UsageError, match="speaks"):
        peers._speaking(peers.read_plan("kernel"))


@pytest.mark.parametrize("name", ["piper", "kokoro", "flite"])
def test_other_projects_speak(name, tmp_path):
    (entry,) = [e for e in peers.read_plan("peers").entries.values() if e.name == name]
    if entry.missing:
        pytest.skip(entry.missing)
    job = Job({"sentences": ["The door is open."], "folder": str(tmp_path)})
    spoken = entry.contender(entry.config, job)
    facts = spoken.load()
    assert facts["licence"] and facts["disk_bytes"] > 1e6
    times = spoken.run("sentence 0", 1)
    assert times["work"][0] > 0 and times["first_audio"][0] > 0
    audio, rate = soundfile.read(tmp_path / "000.flac")
    assert 0.5 < len(audio) / rate < 4 and abs(audio).max() > 0.05
