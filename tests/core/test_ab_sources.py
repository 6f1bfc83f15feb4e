"""Arms that are recordings or servers: what is matched, what fails, and a gate of two folders."""

import io
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from test_ab_files import write
from test_ab_parts import plan

from wishbone.core.cli import ab as ab_command
from wishbone.core.config.compose import Config
from wishbone.core.contract.errors import ConfigError, GateFailed, UsageError, WishboneError
from wishbone.core.evaluate import ab
from wishbone.core.evaluate.experiment import config_diff
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import UNMEASURED, Items
from wishbone.core.evaluate.experiment.plan import read_plan
from wishbone.core.evaluate.gate import hold, read_limit
from wishbone.core.evaluate.report.wording import warnings
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.openai_server import OpenAIServer
from wishbone.core.evaluate.sources.outside import Outside
from wishbone.core.evaluate.sources.recordings import Recordings, matched
from wishbone.core.evaluate.sources.speak_missing import speak_missing
from wishbone.core.evaluate.statistics.metrics import choose, choose_primary

PROMPTS = [Prompt(f"{i:03d}", f"sentence {i}") for i in range(3)]
RATE = 16_000


def tone(seconds=1.0, silent=0.0):
    """A tone, with silence of some seconds in its middle."""
    samples = 0.3 * np.sin(np.arange(int(seconds * RATE)) / 10).astype(np.float32)
    middle, half = len(samples) // 2, int(silent * RATE / 2)
    samples[middle - half : middle + half] = 0
    return samples


def fill(folder, names, silent=0.0):
    folder.mkdir(exist_ok=True)
    for name in names:
        soundfile.write(folder / name, tone(2.0, silent), RATE)
    return folder


def test_recordings_are_matched_by_number_by_name_or_by_order(tmp_path):
    by_number = matched(fill(tmp_path / "a", ["000.wav", "002.wav"]), PROMPTS, 3)
    assert {key: path.name for key, path in by_number.items()} == {
        "000": "000.wav", "002": "002.wav",
    }  # fmt: skip
    by_order = matched(fill(tmp_path / "b", ["x.wav", "y.flac", "z.wav"]), PROMPTS, 3)
    assert by_order["001"].name == "y.flac"
    listed = [replace(prompt, name=name) for prompt, name in zip(PROMPTS, "zyx", strict=True)]
    # the list names them, whatever the order of their names
    assert matched(tmp_path / "b", listed, 3)["000"].name == "z.wav"
    with pytest.raises(UsageError, match="2 recordings cannot be matched with 3"):
        matched(fill(tmp_path / "c", ["x.wav", "y.wav"]), PROMPTS, 3)
    with pytest.raises(UsageError, match="one name"):
        matched(fill(tmp_path / "d", ["000.wav", "000.flac"]), PROMPTS, 3)
    with pytest.raises(UsageError, match="no such folder"):
        matched(tmp_path / "none", PROMPTS, 3)


def test_a_missing_recording_is_a_failure_and_not_left_out(tmp_path):
    source = Recordings(fill(tmp_path / "a", ["000.wav", "001.wav"]), PROMPTS, 3)
    (tmp_path / "a" / "001.wav").write_bytes(b"no audio")
    good, damaged, missing = (source.speak(prompt, 1, None).generation for prompt in PROMPTS)
    assert good.failure == "" and good.seconds == 2.0 and good.rtf is None
    assert damaged.failure == "error" and "cannot be read" in damaged.error
    assert missing.failure == "error" and "no recording" in missing.error


@contextmanager
def server(answer):
    """A server that calls ``answer(body)`` -> (status, bytes); yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            status, data = answer({**body, "path": self.path, "headers": dict(self.headers)})
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


def wav(silent=0.0):
    file = io.BytesIO()
    soundfile.write(file, tone(2.0, silent), RATE, format="WAV")
    return file.getvalue()


def test_a_server_is_asked_as_openai_is(monkeypatch):
    monkeypatch.setenv("SPEECH_TOKEN", "secret")
    asked = []

    def answer(body):
        asked.append(body)
        return 200, wav()

    with server(answer) as url:
        given = Outside(url=f"{url}/v1", model="m", token="SPEECH_TOKEN")
        spoken = OpenAIServer(given).speak(PROMPTS[0], 7, "joe")
        OpenAIServer(replace(given, seed=False, voice="ann")).speak(PROMPTS[0], 7, "joe")
    first, second = asked
    assert first["path"] == "/v1/audio/speech" and first["input"] == "sentence 0"
    assert (first["model"], first["voice"], first["seed"]) == ("m", "joe", 7)
    assert first["response_format"] == "wav"
    assert first["headers"]["Authorization"] == "Bearer secret"
    assert second["voice"] == "ann" and "seed" not in second
    generation = spoken.generation
    assert generation.failure == "" and generation.seconds == 2.0 and spoken.rate == RATE
    assert 0 < generation.first_audio <= 1000 * generation.computing + 1
    assert generation.rtf == pytest.approx(generation.computing / 2, abs=1e-3)
    # its processor time is nobody's here
    assert generation.processor is None and generation.token_rate is None


def test_a_refusal_is_a_failure_and_a_busy_server_is_asked_again():
    def answer(body):
        if body["input"].endswith("0"):
            return 400, json.dumps({"error": {"message": "no such\nword"}}).encode()
        return (429, b"later") if body["input"].endswith("1") else (200, b"no audio")

    with server(answer) as url:
        source = OpenAIServer(Outside(url=url, model="m"))
        wrong, busy, damaged = (source.speak(prompt, 1, None).generation for prompt in PROMPTS)
        with pytest.raises(UsageError, match="gives no speech"):
            source.prepare(None)
    assert wrong.failure == "error" and wrong.error == "400 no such word"
    assert busy.failure == UNMEASURED and damaged.failure == "error"
    # and one that is gone ends the run, which can go on later
    with pytest.raises(WishboneError, match="does not answer"):
        source.speak(PROMPTS[0], 1, None)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{url: http://h}", "does not say where"),
        ("{audio: a, url: http://h, model: m}", "does not say where"),
        ("{url: h, model: m}", "no address"),
        ("{audio: a, modle: m}", "modle"),
    ],
)
def test_an_arm_that_is_neither_is_refused(tmp_path, arm, message):
    text = f"arms: {{one: {{audio: x}}, two: {arm}}}\n"
    with pytest.raises(ConfigError, match=message):
        read_plan(write(tmp_path, text))


def gate_plan(tmp_path, before, after, prompts=8):
    """A plan of two folders that is judged without any model: by its pauses."""
    metrics = choose(added=["pauses"])
    metrics = {key: metrics[key] for key in ("rtf", "pauses")}
    arms = [
        Arm(key, str(folder), Config({"outside": {"audio": str(folder)}}))
        for key, folder in (("before", before), ("after", after))
    ]
    return replace(
        plan(prompts=prompts), arms=arms, metrics=choose_primary(["pauses"], metrics, "here"),
        rounds=1,
    )  # fmt: skip


def test_two_folders_pass_a_gate_or_do_not(tmp_path):
    for package in ("jinja2", "rich", "matplotlib"):
        pytest.importorskip(package, reason="pip install wishbone-tts[ab]")
    names = [f"{i:03d}.wav" for i in range(8)]
    before = fill(tmp_path / "before", names)
    after = fill(tmp_path / "after", names, silent=0.5)
    given = gate_plan(tmp_path, before, after)
    assert config_diff.refuse_confounds(config_diff.differences(given), allow=False) == []
    result = ab.run(given, tmp_path / "out")
    (row,) = result.analysis.comparisons
    assert row.metric == "pauses" and row.outcome.difference == pytest.approx(25, abs=2)
    assert result.costs.engines == {"before": "recordings", "after": "recordings"}
    assert any(line.startswith("OUTSIDE: ") for line in warnings(result))
    # hashes of the recordings stand where those of weights do
    assert set(result.provenance.weights["after"]) == set(names)
    hold(result, [read_limit("pauses.high > 60")])
    with pytest.raises(GateFailed, match="after: pauses.high > 5"):
        hold(result, [read_limit("pauses.high > 5")])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "nothing is known of how before and after came about" in page
    # pauses have no margin to draw a difference in
    assert "Each line is the interval of a change" not in page
    # other recordings are another run
    soundfile.write(after / "000.wav", tone(1.0), RATE)
    with pytest.raises(UsageError, match="other systems"):
        ab.run(given, tmp_path / "out")


def test_a_server_beside_recordings_goes_on_where_it_was_busy(tmp_path):
    names = [f"{i:03d}.wav" for i in range(4)]
    given = gate_plan(tmp_path, fill(tmp_path / "before", names), tmp_path, prompts=4)
    busy = {"sentence 2"}

    def answer(body):
        return (503, b"") if body["input"] in busy else (200, wav())

    with server(answer) as url:
        asked = Config({"outside": {"url": url, "model": "m"}})
        given = replace(given, arms=[given.arms[0], Arm("after", "m", asked)])
        items = Items(tmp_path / "items.jsonl")
        costs = speak_missing(given, items, tmp_path)
        assert items.get("after", "002", 0).failure == UNMEASURED
        busy.clear()
        speak_missing(given, items, tmp_path)
    item = items.get("after", "002", 0)
    assert item.failure == "" and item.seconds == 2.0 and item.row["rtf"] > 0
    assert costs.engines == {"before": "recordings", "after": "server"}
    assert costs.length == costs.memory == costs.budget == {}


def test_a_bundled_gate_reads_its_folders_from_the_command(tmp_path, capsys):
    words = ["gate", "arms.before.audio=old", "arms.after.audio=new", "--dry-run"]
    assert ab_command.main(words) == 0
    shown = capsys.readouterr().out
    assert "old" in shown and "new" in shown and "not_meant_to_differ: []" in shown
