"""OpenAI's speech interface, in process: formats, fields, errors, and who may ask."""

import base64
import io
import json

import numpy as np
import pytest
import serving_toys as toys
import soundfile
from serving_toys import TEXT

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.serve.refusal import Refusal


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with toys.closing(toys.make_service(tmp_path_factory.mktemp("serve"))) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    with toys.client_of(service) as client:
        yield client


def ask(client, **fields):
    body = {"model": "tiny", "input": TEXT, "response_format": "pcm", **fields}
    return client.post("/v1/audio/speech", json=body)


def test_the_models_are_listed(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["sample_rate"]) == ("tiny", "model", 24_000)
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize("seed", [0, 7])
def test_pcm_is_what_is_spoken_without_a_server(client, service, seed):
    answer = ask(client, seed=seed)
    assert answer.status_code == 200
    assert answer.content == toys.offline(service, seed=seed)
    assert answer.headers["x-sample-rate"] == "24000"
    assert answer.headers["x-wishbone-arm"] == "tiny"
    assert "x-wishbone-route" not in answer.headers
    assert answer.headers["content-type"] == "audio/pcm"
    assert len(answer.headers["x-request-id"]) == 16


def test_another_seed_says_something_else(client):
    """Negative control of the comparison above."""
    assert ask(client, seed=0).content != ask(client, seed=7).content


@pytest.mark.parametrize(("form", "kind"), [("wav", "audio/wav"), ("flac", "audio/flac")])
def test_lossless_formats_hold_the_same_samples(client, service, form, kind):
    answer = ask(client, response_format=form)
    samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    assert rate == 24_000 and answer.headers["content-type"] == kind
    assert samples.astype("<i2").tobytes() == toys.offline(service)


@pytest.mark.parametrize("kind", ["audio", "sse"])
def test_flac_is_streamed_where_a_stream_is_asked_for(client, service, kind):
    av = pytest.importorskip("av", reason="the extra 'ab' is not installed")
    answer = ask(client, response_format="flac", stream_format=kind, input=3 * TEXT)
    data = answer.content
    if kind == "sse":
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
        parts = [base64.b64decode(event["audio"]) for event in events[:-1]]
        assert len(parts) > 3
        data = b"".join(parts)
    # bytes 18 to 25: 20 bits of rate, 3 of channels, 5 of bits, 36 of length, 0 where unknown
    facts = int.from_bytes(data[18:26], "big")
    assert data[:4] == b"fLaC" and facts >> 44 == 24_000 and facts % 2**36 == 0
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
    assert np.concatenate(frames).astype("<i2").tobytes() == toys.offline(service, 3 * TEXT)


def test_flac_has_its_length_where_nothing_is_said_of_streams(client, service):
    file = soundfile.SoundFile(io.BytesIO(ask(client, response_format="flac").content))
    assert file.frames == len(toys.offline(service)) // 2


@pytest.mark.parametrize("form", ["opus", "mp3"])
def test_lossy_formats_decode_to_the_same_sound(client, service, form):
    answer = ask(client, response_format=form)
    samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="float64")
    plain = np.frombuffer(toys.offline(service), "<i2") / 32768
    # an encoder adds up to two frames of its own, each of 576 or 1152 samples
    assert rate == 24_000 and 0 <= len(samples) - len(plain) <= 2 * 1152
    spectra = [np.abs(np.fft.rfft(each[: len(plain)])) for each in (samples, plain)]
    assert np.corrcoef(*spectra)[0, 1] > 0.9


def test_events_carry_the_samples_and_the_counts(client, service):
    answer = ask(client, stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.strip().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert events[-1]["type"] == "speech.audio.done" and events[-1]["usage"]["output_tokens"] > 5
    data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert data == toys.offline(service)


WRONG = [
    ({"model": "other"}, 404, "model"),
    ({"input": ""}, 400, "input"),
    ({"input": "?!..."}, 400, "input"),
    ({"input": 5}, 400, "input"),
    ({"input": "x " * 3000}, 413, "input"),
    ({"voice": "nobody"}, 400, "voice"),
    ({"voice": "../../etc/passwd"}, 400, "voice"),
    ({"voice": {"id": "nobody"}}, 400, "voice"),
    ({"voice": {"ids": 1}}, 400, "voice"),
    ({"speed": 1.5}, 400, "speed"),
    ({"speed": "fast"}, 400, "speed"),
    ({"response_format": "aac"}, 400, "response_format"),
    ({"response_format": "exe"}, 400, "response_format"),
    ({"stream_format": "smoke"}, 400, "stream_format"),
    ({"seed": -1}, 400, "seed"),
    ({"seed": 2**63}, 400, "seed"),
    ({"seed": True}, 400, "seed"),
    ({"seed": 1.5}, 400, "seed"),
    ({"pitch": 2}, 400, "pitch"),
]


@pytest.mark.parametrize(("fields", "status", "param"), WRONG)
def test_a_field_that_cannot_be_honoured_is_named(client, fields, status, param):
    answer = ask(client, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert error["message"].endswith(".") and error["code"] and error["type"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"model": "tiny"}'])
def test_a_body_that_is_none_is_refused(client, body):
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/audio/speech", content=body, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_half_a_character_is_refused(client):
    body = b'{"model": "tiny", "input": "hello \\ud800 there"}'
    answer = client.post(
        "/v1/audio/speech", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


def test_half_a_character_is_refused_where_no_parser_stands_before(service):
    with pytest.raises(Refusal, match="half a character") as caught:
        service.check_text("hello \ud800", "text")
    assert (caught.value.status, caught.value.param) == (400, "text")


def test_instructions_that_no_part_follows_are_refused(client):
    answer = ask(client, instructions="in a whisper")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "instructions")


def test_an_error_of_the_system_is_an_answer(tmp_path):
    with toys.closing(toys.make_service(tmp_path)) as service:
        service.arms["tiny"].server.pool.step = lambda *arguments: 1 / 0
        with toys.client_of(service) as client:
            answer = ask(client)
            assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
            assert "ZeroDivision" not in answer.text
            assert 'outcome="error"' in client.get("/metrics").text


def test_what_a_part_refuses_while_it_speaks_is_told_with_what_to_do(tmp_path):
    def refuse(*arguments, **options):
        raise CheckpointError("The voice is damaged.", "/secret/place", "Make it again.")
        yield

    with toys.closing(toys.make_service(tmp_path)) as service:
        service.arms["tiny"].server.stream = refuse
        with toys.client_of(service) as client:
            answer = ask(client)
            assert answer.status_code == 400 and "secret" not in answer.text
            message = answer.json()["error"]["message"]
            assert message == "The voice is damaged. Make it again."


def test_the_document_has_only_answers_that_are_given(client):
    document = client.get("/openapi.json").json()
    assert "ValidationError" not in json.dumps(document)
    assert "Error" in document["components"]["schemas"]


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "access-control-allow-origin" not in page.headers
    for name in ("nothing.js", "..%2fsettings.py", "%2e%2e", "__init__.py"):
        assert client.get(f"/{name}").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:8880"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"origin": "http://127.0.0.1:8880"}, 200),
        ({"host": "localhost:8880"}, 200),
        ({"host": "[::1]:8880"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(client, headers, status):
    assert client.get("/v1/models", headers=headers).status_code == status


def test_a_token_opens_everything_but_the_page_and_the_state(tmp_path):
    service = toys.make_service(tmp_path, settings={"token": "secret", "host": "0.0.0.0"})
    with toys.closing(service), toys.client_of(service) as client:
        for path in ("/", "/health", "/ready"):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/v1/audio/voices", "/metrics", "/ab", "/openapi.json"):
            assert client.get(path).status_code == 401
            wrong = {"authorization": "Bearer secrets"}
            assert client.get(path, headers=wrong).status_code == 401
            right = {"authorization": "Bearer secret"}
            assert client.get(path, headers=right).status_code == 200


def test_the_state_is_told(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    ask(client)
    text = client.get("/metrics").text
    for name in (
        'wishbone_slots{system="tiny"} 2.0',
        'wishbone_queue{system="tiny"} 0.0',
        'wishbone_first_sound_seconds_count{route="none",system="tiny"}',
        'wishbone_real_time_factor_count{route="none",system="tiny"}',
        'wishbone_requests_total{outcome="ok",route="none",system="tiny"}',
        "process_resident_memory_bytes",
    ):
        assert name in text
