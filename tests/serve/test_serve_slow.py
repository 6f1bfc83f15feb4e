"""Clients that send or take too little: every connection ends, and no slot stays taken.

``WISHBONE_FUZZ=2000`` sends so many requests with wrong bytes in them; CI fewer.
"""

import base64
import json
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import serving_toys as toys

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from wishbone.core.serve.web.process import DrainingServer, bind  # noqa: E402

FUZZ = int(os.environ.get("WISHBONE_FUZZ", "100"))
STALL = 1.0
"""Seconds of patience of the server here."""
PATIENCE = 12 * STALL
"""Seconds after which a test calls it a hang; a busy machine needs some of them."""
HEAD = b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HANDSHAKE = (
    b"GET /v1/audio/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + base64.b64encode(bytes(16))
    + b"\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    service = toys.make_service(tmp_path_factory.mktemp("slow"), stall=STALL)
    settings = replace(service.settings, port=0)
    with toys.closing(service), bind(settings) as listener:
        # what is accepted inherits it: an answer must not fit into what the system keeps
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        server = DrainingServer(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        server.port, server.service = listener.getsockname()[1], service
        while not server.started:
            time.sleep(0.01)
        yield server
        server.should_exit = True
        thread.join(30)


def connect(server):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.settimeout(PATIENCE)
    return connection


def read_to_the_end(connection):
    """Everything up to the end of the connection; a ``TimeoutError`` is a hang."""
    data = b""
    try:
        while part := connection.recv(65_536):
            data += part
    except ConnectionResetError:
        pass
    return data


def trickle(connection, data, pause=STALL / 10):
    """Send a byte at a time until the server has had enough; whether it had."""
    end = time.monotonic() + PATIENCE
    try:
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            time.sleep(pause)
            assert time.monotonic() < end, "the server takes it for ever"
    except OSError:
        return True
    return False


def nobody_is_left(server, patience=PATIENCE):
    state, service = server.server_state, server.service
    end = time.monotonic() + patience
    while (state.connections or not service.is_idle) and time.monotonic() < end:
        time.sleep(0.02)
    assert not state.connections and service.is_idle


def until_it_speaks(server):
    end = time.monotonic() + PATIENCE
    while server.service.is_idle:
        assert time.monotonic() < end
        time.sleep(0.002)


SILENT = {
    "nothing": b"",
    "half a head": HEAD[:40],
    "a head without its end": HEAD,
    "half an upgrade": HANDSHAKE[:80],
}


@pytest.mark.parametrize("kind", SILENT)
def test_a_head_that_never_ends_is_not_waited_for(server, kind):
    with connect(server) as connection:
        connection.sendall(SILENT[kind])
        assert read_to_the_end(connection) == b""
    nobody_is_left(server)


def test_a_head_byte_by_byte_has_no_more_time(server):
    with connect(server) as connection:
        assert trickle(connection, HEAD + b"X: " + b"x" * 1000)
    nobody_is_left(server)


def test_the_second_head_has_no_more_time_than_the_first(server):
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
        assert trickle(connection, HEAD + b"X: " + b"x" * 1000)
    nobody_is_left(server)


def test_a_body_that_stops_is_answered_with_408(server):
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n" + b"{")
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"too slowly" in answer
    nobody_is_left(server)


def test_a_body_byte_by_byte_is_answered_with_408(server):
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        assert trickle(connection, b" " * 1000)
        try:
            assert connection.recv(10_000).startswith(b"HTTP/1.1 408")
        except ConnectionResetError:
            pass  # the answer was lost behind bytes that nobody took
    nobody_is_left(server)


def test_the_rest_of_a_body_after_an_early_answer_is_not_waited_for(server):
    with connect(server) as connection:
        connection.sendall(b"POST /nowhere/at/all HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        connection.sendall(b"Content-Length: 1000\r\n\r\n")
        assert trickle(connection, b" " * 1000)
    nobody_is_left(server)


def test_a_client_that_sends_slowly_but_steadily_is_served(server):
    """Negative control: patience is there for those who use it."""
    body = toys.speech(200 * " " + toys.TEXT)
    with connect(server) as connection:
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 60):
            connection.sendall(body[at : at + 60])
            time.sleep(STALL / 50)
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 200") and len(answer) > 20_000
    nobody_is_left(server)


def test_who_goes_half_and_listens_ends(server):
    """A half-open socket: a client that will send nothing more counts as gone."""
    with connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        read_to_the_end(connection)
    nobody_is_left(server)


def test_a_client_that_takes_nothing_is_left(server):
    """Its answer is larger than all that the system keeps, so that somebody must wait."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", server.port))
        body = toys.speech(20 * toys.TEXT)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until_it_speaks(server)
        nobody_is_left(server, 60)


def frame(data, opcode=1, final=True, length=None):
    """A frame of a client, with a mask of zeros; ``length`` is what it says of itself."""
    length = len(data) if length is None else length
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([0x80 * final | opcode]) + size + bytes(4) + data


def converse(server):
    connection = connect(server)
    connection.sendall(HANDSHAKE)
    assert connection.recv(10_000).startswith(b"HTTP/1.1 101")
    return connection


STOPPING = {
    "half a header": b"\x81",
    "a header without a mask": b"\x81\xfe\x10",
    "half a frame": frame(b"{", length=1000),
    "half a message": frame(b"{", final=False),
    "a whole message and half a header": frame(b"{}") + b"\x81",
}


@pytest.mark.parametrize("kind", STOPPING)
def test_a_frame_that_never_ends_is_not_waited_for(server, kind):
    with converse(server) as connection:
        connection.sendall(STOPPING[kind])
        read_to_the_end(connection)
    nobody_is_left(server)


def test_a_frame_byte_by_byte_has_no_more_time(server):
    with converse(server) as connection:
        assert trickle(connection, frame(b" " * 2000))
    nobody_is_left(server)


def test_a_websocket_that_takes_nothing_is_left(server):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(HANDSHAKE)
        assert connection.recv(1000).startswith(b"HTTP/1.1 101")
        text = 20 * toys.TEXT
        for message in (
            {"type": "start", "model": "tiny"}, {"type": "text", "text": text}, {"type": "end"},
        ):  # fmt: skip
            connection.sendall(frame(json.dumps(message).encode()))
        until_it_speaks(server)
        nobody_is_left(server, 60)


def test_a_websocket_that_answers_pings_may_be_silent(server):
    """Negative control: only what cannot answer is left."""
    websockets = pytest.importorskip("websockets.sync.client")
    url = f"ws://127.0.0.1:{server.port}/v1/audio/stream"
    with websockets.connect(url, ping_interval=None) as connection:
        time.sleep(3 * STALL)
        connection.send('{"type": "start", "model": "tiny"}')
        assert json.loads(connection.recv(PATIENCE))["type"] == "started"
    nobody_is_left(server)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system that counts open files")
def test_many_silent_connections_keep_nobody_out_for_long(server):
    silent = [connect(server) for _ in range(300)]  # more than the server takes
    try:
        end = time.monotonic() + PATIENCE
        while True:
            with connect(server) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                try:
                    if connection.recv(10_000).startswith(b"HTTP/1.1 200"):
                        break
                except OSError:
                    pass
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        for connection in silent:
            connection.close()
    nobody_is_left(server)


def requests():
    """Requests in good faith, as bytes."""
    body = toys.speech("Hello.")
    yield HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (body[:9], body[9:], b""))
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    form = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    form = b"".join(form % pair for pair in ((b"name", b"../me"), (b"transcript", b"Hello.")))
    form += b'--x\r\nContent-Disposition: form-data; name="audio"; filename="../../a.wav"\r\n'
    form += b"Content-Type: audio/wav\r\n\r\nRIFF" + bytes(200) + b"\r\n--x--\r\n"
    head = HEAD.replace(b"speech", b"voices").replace(b"application/json", MULTIPART)
    yield head + b"Content-Length: %d\r\n\r\n" % len(form) + form
    for path in (b"/v1/audio/voices/../../../etc/passwd", b"/..%2f..%2fetc%2fpasswd", b"/ab?a=%zz"):
        yield b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    messages = [
        {"type": "start", "model": "tiny"},
        {"type": "text", "text": "Hi."},
        {"type": "end"},
    ]
    yield HANDSHAKE + b"".join(frame(json.dumps(each).encode()) for each in messages)


MULTIPART = b"multipart/form-data; boundary=x"


def spoilt(data, dice):
    """The same with bytes changed, lost, doubled, put in or cut off."""
    data = bytearray(data)
    for _ in range(dice.choice([0, 1, 1, 2, 40])):
        at, length = dice.randrange(len(data) + 1), dice.choice([1, 1, 2, 8, 100])
        kind = dice.randrange(6)
        if kind == 0:
            data[at : at + length] = dice.randbytes(length)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at:at] = dice.choice([b"\r\n", b"\0", b": ", b"%", b"\xff", b"9" * 30, b"../"])
        elif kind == 4 and at > 10:
            del data[at:]
        else:
            data[at : at + 1] = dice.choice([b"\n", b" ", b"\r", b"0", b"-"])
    return bytes(data)


def send_spoilt(server, number):
    """Send a spoilt request in one or more parts, and read to the end, or for a while."""
    dice = random.Random(number)
    data = spoilt(dice.choice(list(requests())), dice)
    upgrade, rest = data[: len(HANDSHAKE)], data[len(HANDSHAKE) :]
    with connect(server) as connection:
        try:
            connection.sendall(upgrade)
            time.sleep(dice.choice([0, 0, 0.02]))
            connection.sendall(rest)
            if dice.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
            if dice.random() < 0.2:
                return data, b""  # gone without a word
            return data, read_to_the_end(connection)
        except TimeoutError:
            raise AssertionError(f"a hang: {data!r}") from None
        except OSError:
            return data, b""  # the server had enough first


@pytest.mark.timeout(600 + FUZZ)
def test_bytes_by_chance_are_no_error_and_hold_nothing(server):
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda number: send_spoilt(server, number), range(FUZZ)))
    for data, answer in answers:
        assert not answer or answer.startswith(b"HTTP/1.1 "), (data, answer[:200])
        assert answer[9:10] in (b"", b"1", b"2", b"3", b"4"), (data, answer[:500])
    statuses = {answer[9:12] for _, answer in answers}
    # they come as far as the routes
    assert {b"200", b"101", b"400", b"404"} <= statuses, statuses
    nobody_is_left(server, 60)
    folder = server.service.settings.folder
    assert not list(folder.rglob("*.wav")) and not list(folder.parent.glob("*.wav"))
