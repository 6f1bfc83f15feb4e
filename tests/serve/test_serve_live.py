"""Text that arrives over a WebSocket: audio meanwhile, the same samples, and barge-in."""

import json
import time

import pytest
import serving_toys as toys
from serving_toys import TEXT, Brake

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from starlette.websockets import WebSocketDisconnect  # noqa: E402

URL = "ws://127.0.0.1:8880/v1/audio/stream"


@pytest.fixture
def service(tmp_path):
    with toys.closing(toys.make_service(tmp_path)) as service:
        yield service


@pytest.fixture
def socket(service):
    with toys.client_of(service) as client, client.websocket_connect(URL) as socket:
        yield socket


def start(socket, **fields):
    socket.send_json({"type": "start", "model": "tiny", **fields})
    started = socket.receive_json()
    assert (started["type"], started["sample_rate"], started["arm"]) == ("started", 24_000, "tiny")


def message(socket):
    raw = socket.receive()
    assert raw["type"] == "websocket.send", raw
    return raw["bytes"] if raw.get("bytes") is not None else json.loads(raw["text"])


def collect(socket):
    """Audio up to the next message that is none, and that message."""
    audio = b""
    while isinstance(part := message(socket), bytes):
        audio += part
    return audio, part


def say(socket, *pieces):
    for piece in pieces:
        socket.send_json({"type": "text", "text": piece})


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_of_any_size_give_the_samples_of_the_whole(service, socket, size):
    start(socket, seed=3)
    say(socket, *(TEXT[at : at + size] for at in range(0, len(TEXT), size)))
    socket.send_json({"type": "end"})
    audio, last = collect(socket)
    assert audio == toys.offline(service, seed=3)
    assert last == {"type": "done", "seconds": len(audio) / 48_000}


def test_audio_comes_while_text_is_still_coming(service, socket):
    start(socket)
    say(socket, "We speak of one thing. Then of")
    assert isinstance(first := message(socket), bytes)
    say(socket, " another thing altogether!")
    socket.send_json({"type": "end"})
    assert first + collect(socket)[0] == toys.offline(service)


def test_flush_speaks_what_came(service, socket):
    start(socket)
    say(socket, "We speak of one thing")
    socket.send_json({"type": "flush"})
    expected = toys.offline(service, "We speak of one thing")
    audio = b""
    while len(audio) < len(expected):
        audio += message(socket)
    assert audio == expected
    socket.send_json({"type": "end"})
    assert collect(socket)[1]["type"] == "done"


def test_cancel_stops_at_once_and_the_next_utterance_is_whole(service, socket):
    brake = Brake(service.arms["tiny"].server)
    start(socket)
    say(socket, 20 * TEXT)
    brake.release(30)
    assert isinstance(message(socket), bytes)
    socket.send_json({"type": "cancel"})
    assert collect(socket)[1] == {"type": "cancelled"}
    brake.release()
    start(socket, seed=5)
    say(socket, TEXT)
    socket.send_json({"type": "end"})
    assert collect(socket)[0] == toys.offline(service, seed=5)


def test_who_closes_frees_the_slot(service):
    with toys.client_of(service) as client:
        with client.websocket_connect(URL) as socket:
            start(socket)
            say(socket, "We speak of one thing. And then")
            assert isinstance(message(socket), bytes)
        end = time.monotonic() + 20
        while not service.is_idle and time.monotonic() < end:
            time.sleep(0.005)
        assert service.is_idle and service.arms["tiny"].server.pool.free == 2


WRONG = [
    ("{", "invalid_json"),
    ("[]", "invalid_value"),
    ('{"type": "shout"}', "invalid_value"),
    ('{"type": "text", "text": "hello"}', "not_started"),
    ('{"type": "end"}', "not_started"),
    ('{"type": "start"}', "missing_required_parameter"),
    ('{"type": "start", "model": "nobody"}', "model_not_found"),
    ('{"type": "start", "model": "tiny", "voice": "../x"}', "voice_not_found"),
    ('{"type": "start", "model": "tiny", "pitch": 1}', "unknown_parameter"),
    ('{"type": "start", "model": "tiny", "instructions": "slowly"}', "unsupported_value"),
]


@pytest.mark.parametrize(("text", "code"), WRONG)
def test_a_wrong_message_is_answered_and_the_connection_goes_on(service, socket, text, code):
    socket.send_text(text)
    answer = socket.receive_json()
    assert (answer["type"], answer["error"]["code"]) == ("error", code)
    start(socket)
    say(socket, TEXT)
    socket.send_json({"type": "end"})
    assert collect(socket)[0] == toys.offline(service)


def test_binary_noise_too_long_a_text_and_a_second_start_are_refused(socket):
    socket.send_bytes(b"\xff\xfe\x00")
    assert socket.receive_json()["type"] == "error"
    start(socket)
    say(socket, "x" * 5000)
    assert socket.receive_json()["error"]["code"] == "too_long"
    socket.send_json({"type": "start", "model": "tiny"})
    assert socket.receive_json()["error"]["code"] == "already_started"
    socket.send_json({"type": "cancel"})
    assert collect(socket)[1] == {"type": "cancelled"}


def test_a_text_without_words_is_an_error(socket):
    start(socket)
    say(socket, "?!")
    socket.send_json({"type": "end"})
    assert collect(socket)[1]["type"] == "error"


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"host": "evil.example"}])
def test_pages_of_other_sites_get_no_connection(service, headers):
    with toys.client_of(service) as client:
        with pytest.raises(WebSocketDisconnect):
            with client.websocket_connect(URL, headers=headers):
                pass


def test_a_token_may_come_as_a_subprotocol(tmp_path):
    service = toys.make_service(tmp_path, settings={"token": "secret"})
    with toys.closing(service), toys.client_of(service) as client:
        with pytest.raises(WebSocketDisconnect):
            with client.websocket_connect(URL):
                pass
        with client.websocket_connect(URL, subprotocols=["wishbone", "bearer.secret"]) as socket:
            assert socket.accepted_subprotocol == "wishbone"
            start(socket)
