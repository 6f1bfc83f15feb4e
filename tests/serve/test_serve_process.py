"""A real server: its own process, a real socket, a bundled system and OpenAI's own client."""

import base64
import importlib.util
import io
import json
import signal
import socket
import time

import numpy as np
import pytest
import soundfile
from real_server import running

openai = pytest.importorskip("openai", reason="the extra 'dev' is not installed")

import wishbone  # noqa: E402
from wishbone.core.cli.main import main  # noqa: E402
from wishbone.core.serve.encoding import as_pcm  # noqa: E402

SYSTEM = "quickstart-rwkv7"
TEXT = "A short line. And then another one."


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    with running(folder, SYSTEM, "--json-logs", "--slots", "2") as server:
        yield server


@pytest.fixture(scope="module")
def offline():
    """The same text from the library, without a server."""
    return as_pcm(wishbone.load(SYSTEM).say(TEXT, seed=3).samples).tobytes()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client:
        yield client


def ask(client, form, **fields):
    return client.audio.speech.create(
        model=SYSTEM, input=TEXT, voice="default", response_format=form, extra_body={"seed": 3},
        **fields,
    )  # fmt: skip


def test_the_client_lists_models(client):
    assert [model.id for model in client.models.list()] == [SYSTEM]


def test_lossless_formats_are_the_librarys_samples_bit_for_bit(client, offline):
    assert ask(client, "pcm").content == offline
    for form in ("wav", "flac"):
        samples, rate = soundfile.read(io.BytesIO(ask(client, form).content), dtype="int16")
        assert rate == 24_000 and samples.astype("<i2").tobytes() == offline


def test_lossy_formats_decode(client, offline):
    for form in ("opus", "mp3"):
        samples, rate = soundfile.read(io.BytesIO(ask(client, form).content))
        assert rate == 24_000 and 0 <= len(samples) - len(offline) // 2 <= 2 * 1152


def test_a_stream_comes_in_parts_and_is_the_same(client, offline):
    with client.audio.speech.with_streaming_response.create(
        model=SYSTEM, input=TEXT, voice="default", response_format="pcm", extra_body={"seed": 3}
    ) as answer:
        parts = list(answer.iter_bytes())
    assert len(parts) > 3 and b"".join(parts) == offline


def test_events_are_the_same(client, offline):
    events = ask(client, "pcm", stream_format="sse").text.strip().split("\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in events]
    assert events[-1]["type"] == "speech.audio.done"
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == offline


LONG = "It speaks while it thinks. " * 6


@pytest.mark.parametrize("form", ["pcm", "wav", "flac", "opus", "sse"])
def test_the_first_bytes_come_before_the_last_word_is_spoken(server, client, form):
    """By the server's own count: a slot is still in use when the client has sound."""
    fields = {"response_format": form, "stream_format": "audio"}
    if form == "sse":
        fields = {"response_format": "pcm", "stream_format": "sse"}
    least = 1000 if form in ("flac", "opus") else 100  # their headers alone are no sound
    with client.audio.speech.with_streaming_response.create(
        model=SYSTEM, input=LONG, voice="default", **fields
    ) as answer:
        parts = answer.iter_bytes()
        data = b""
        while len(data) < least:
            data += next(parts)
        assert server.metric("wishbone_slots_used") == 1
        first = len(data)
        data += b"".join(parts)
    assert len(data) > 3 * first
    sound = np.frombuffer(decoded(form, data), "<i2")
    assert 5 * 24_000 < len(sound) and np.abs(sound.astype(int)).max() > 1000


def decoded(form, data):
    """16-bit samples of an answer."""
    if form == "sse":
        events = [json.loads(event[6:]) for event in data.decode().strip().split("\n\n")]
        return b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    if form == "flac":
        av = pytest.importorskip("av", reason="the extra 'ab' is not installed")
        with av.open(io.BytesIO(data)) as file:
            return b"".join(frame.to_ndarray()[0].tobytes() for frame in file.decode(audio=0))
    if form == "pcm":
        return data
    return soundfile.read(io.BytesIO(data), dtype="int16")[0].tobytes()


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "wav", speed=2.0)
    assert caught.value.param == "speed"
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="nobody", input="x", voice="default")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody who speaks TLS
        b"GET\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000,
        b"\0" * 1000,
    ],
)
def test_noise_on_the_socket_harms_nobody(server, client, noise):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert [model.id for model in client.models.list()] == [SYSTEM]


def test_sigterm_finishes_what_runs_and_exits_with_0(server, client):
    """Last of the file: nothing is left of the server afterwards."""
    long = "We go on and on and on for quite some time, and then we go on again. " * 5
    with client.audio.speech.with_streaming_response.create(
        model=SYSTEM, input=long, voice="default", response_format="pcm"
    ) as answer:
        parts = answer.iter_bytes()
        first = next(parts)
        server.process.send_signal(signal.SIGTERM)
        whole = first + b"".join(parts)
    assert len(whole) > 10 * 48_000
    assert server.process.wait(60) == 0
    end = time.monotonic() + 20
    while (lines := server.records())[-1]["message"] != "stopped":
        assert time.monotonic() < end
        time.sleep(0.01)
    ids = [line["request"] for line in lines if line["message"] == "spoken"]
    assert ids and "-" not in ids and len(set(ids)) == len(ids)
    assert [line["level"] for line in lines].count("error") == 0


def test_another_address_without_a_token_is_three_lines(monkeypatch, capsys):
    monkeypatch.delenv("WISHBONE_TOKEN", raising=False)
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "where", "do"]
    assert "WISHBONE_TOKEN" in lines[2]


def test_a_missing_extra_is_three_lines(monkeypatch, capsys):
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "fastapi" else usual(name)
    )
    assert main(["serve"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "fastapi" in lines[0] and "wishbone-tts[serve]" in lines[2]
