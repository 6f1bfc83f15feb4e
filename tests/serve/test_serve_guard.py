"""The guard in front of all routes by itself: who may ask, how much, how slowly, and its lines."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import serving_toys as toys
from serving_toys import Caller, built
from starlette.datastructures import Headers

from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.settings import Settings
from wishbone.core.serve.web import log_lines, request_guard
from wishbone.core.serve.web.app import create_app
from wishbone.core.serve.web.request_guard import Guard, _Answer, _Body, check_origin, has_token


@pytest.fixture
def service(tmp_path):
    with toys.closing(toys.make_service(tmp_path)) as service:
        yield service


def error_of(caller):
    return json.loads(b"".join(caller.parts))["error"]


def records(caplog):
    return [(record.getMessage(), record.__dict__.get("facts")) for record in caplog.records]


@pytest.fixture
def lines(caplog):
    """The lines of the server's log."""
    logger = log_lines.LOGGER
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = [caplog.handler], False
    logger.setLevel("INFO")
    yield caplog
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


async def empty(scope, receive, send):
    """An application that reads a body and answers with its size."""
    size, more = 0, True
    try:
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    except Refusal as refusal:
        await send({"type": "http.response.start", "status": refusal.status, "headers": []})
        body = json.dumps(refusal.body).encode()
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return
    await send({"type": built("http.response.start"), "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode(), "more_body": False})


def test_every_request_has_a_line_with_its_path_status_and_time(service, lines, monkeypatch):
    clock = iter([10.0, 10.0, 10.25])
    monkeypatch.setattr(request_guard, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})

    path = "/" + "x" * 300
    asyncio.run(Caller(Guard(app, service), b"", path, "GET").run())
    assert records(lines) == [(f"GET {path[:200]}", {"status": 204, "ms": 250})]
    assert log_lines.REQUEST.get() == "-"  # outside of requests there is no id


def test_each_request_has_an_id_of_its_own(service):
    seen = []

    async def app(scope, receive, send):
        seen.append(log_lines.REQUEST.get())
        await send({"type": "http.response.start", "status": 204, "headers": []})

    callers = [Caller(Guard(app, service), b"", "/", "GET") for _ in range(2)]
    for caller in callers:
        asyncio.run(caller.run())
    told = [caller.answer_headers[b"x-request-id"].decode() for caller in callers]
    assert told == seen and len(set(seen)) == 2 and {len(each) for each in seen} == {16}


def test_what_is_no_request_is_handed_on(service):
    """Such as the messages of a server that begins."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], log_lines.REQUEST.get()))

    asyncio.run(Guard(app, service)({"type": "lifespan"}, None, None))
    assert seen == [("lifespan", "-")]


def test_all_answers_say_that_nothing_is_guessed_or_framed_unless_they_say_otherwise(service):
    async def app(scope, receive, send):
        headers = [(b"Referrer-Policy", b"origin")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    headers = asyncio.run(Caller(Guard(app, service), b"", "/", "GET").run()).answer_headers
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"Referrer-Policy"] == b"origin" and b"referrer-policy" not in headers
    assert b"frame-ancestors 'none'" in headers[b"content-security-policy"]


def test_an_answer_without_headers_gets_ours(service):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    headers = asyncio.run(Caller(Guard(app, service), b"", "/", "GET").run()).answer_headers
    assert len(headers[b"x-request-id"]) == 16


@pytest.mark.parametrize(
    ("path", "method", "most"),
    [
        ("/v1/audio/speech", "POST", 262_144), ("/v1/audio/voices", "GET", 262_144),
        ("/v1/audio/voices", "POST", 65_536 + 1000), ("/v1/audio/voices/", "POST", 65_536 + 1000),
        ("/v1/audio/voices/me", "POST", 262_144),
    ],
)  # fmt: skip
def test_the_longest_body_passes_and_a_byte_more_does_not(tmp_path, path, method, most):
    with toys.closing(toys.make_service(tmp_path, upload=1000)) as service:
        app = Guard(empty, service)
        for size, status in ((most, 200), (most + 1, 413)):
            told = [(b"content-length", str(size).encode())]
            for headers in ([], told):
                caller = asyncio.run(Caller(app, bytes(size), path, method, headers).run())
                assert caller.status == status
                if status == 200:
                    assert b"".join(caller.parts) == str(size).encode()
            refused = [(b"content-length", b"12x")]
            assert asyncio.run(Caller(app, b"", path, method, refused).run()).status == 413
    error = error_of(caller)
    assert error["code"] == "too_long" and str(most) in error["message"]
    # who sends what nobody reads sends no more requests on this connection
    assert caller.answer_headers[b"connection"] == b"close"


def test_a_body_in_parts_is_counted_as_one():
    sizes = iter([(600, True), (400, False)])

    async def receive():
        size, more = next(sizes)
        return {"type": "http.request", "body": bytes(size), "more_body": more}

    async def scenario(most):
        body = _Body(receive, most, 1.0)
        return [len((await body())["body"]) for _ in range(2)]

    assert asyncio.run(scenario(1000)) == [600, 400]
    sizes = iter([(600, True), (401, False)])
    with pytest.raises(Refusal, match="longer than 1000"):
        asyncio.run(scenario(1000))


def test_a_body_has_stall_seconds_and_one_for_each_thousand_bytes(monkeypatch):
    """And a client that waits for its answer is not hurried at all."""
    clock, waits = SimpleNamespace(now=50.0), []
    parts = iter([b"x" * 2000, b"y" * 500, b""])

    bound = request_guard.asyncio.timeout

    def timeout(seconds):
        waits.append(round(seconds, 6))
        return bound(seconds)

    async def receive():
        body = next(parts, None)
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": body != b""}

    monkeypatch.setattr(request_guard, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(request_guard.asyncio, "timeout", timeout)

    async def scenario():
        body = _Body(receive, 10_000, 8.0)
        await body()
        clock.now = 57.0
        await body()  # 8 seconds, and 2 for what came, less the 7 that went
        clock.now = 51.0
        await body()  # never more than the patience with silence
        assert (await body())["type"] == "http.disconnect"

    asyncio.run(scenario())
    assert waits == [8.0, 3.0, 8.0]


def test_a_slow_body_is_told_how_fast_it_must_be(tmp_path):
    with toys.closing(toys.make_service(tmp_path, stall=0.1)) as service:
        caller = asyncio.run(Caller(Guard(empty, service), None).run())
        error = error_of(caller)
        assert caller.status == 408 and error["code"] == "timeout"
        assert "0.1 s" in error["message"] and "1000 bytes a second" in error["message"]


def test_a_client_that_takes_nothing_is_given_up_and_logged(tmp_path, lines):
    async def send(message):
        await asyncio.sleep(30)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    with toys.closing(toys.make_service(tmp_path, stall=0.05)) as service:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
        asyncio.run(asyncio.wait_for(Guard(empty, service)(scope, receive, send), 10))
    assert [message for message, _ in records(lines)] == [
        "a client took nothing any more", "GET /",
    ]  # fmt: skip


def test_the_status_of_an_answer_is_that_of_its_start():
    sent = []

    async def send(message):
        sent.append(message)

    async def scenario():
        answer = _Answer(send, 1.0)
        assert answer.status == 0
        await answer({"type": built("http.response.body"), "body": b"", "more_body": True})
        assert answer.status == 0 and "headers" not in sent[0]
        await answer({"type": built("http.response.start"), "status": 201, "headers": []})
        assert answer.status == 201

    asyncio.run(scenario())


def test_a_refusal_is_one_whole_answer(tmp_path):
    service = toys.make_service(tmp_path, settings={"token": "secret"})
    with toys.closing(service):
        caller = asyncio.run(Caller(create_app(service), b"", "/v1/models", "GET").run())
    body = b"".join(caller.parts)
    assert caller.status == 401 and error_of(caller)["code"] == "invalid_api_key"
    assert caller.answer_headers[b"www-authenticate"] == b"Bearer"
    assert int(caller.answer_headers[b"content-length"]) == len(body)
    assert caller.answer_headers[b"content-type"] == b"application/json"


def test_an_error_that_nobody_foresaw_is_in_the_log_with_its_cause(service, lines):
    async def broken(scope, receive, send):
        raise ZeroDivisionError("why")

    asyncio.run(Caller(Guard(broken, service), b"", "/", "GET").run())
    assert lines.records[0].exc_info[0] is ZeroDivisionError
    assert records(lines)[-1][1]["status"] == 500


TOKENS = [
    ({"authorization": "Bearer secret"}, True),
    ({"authorization": "bearer   secret "}, True),
    ({"authorization": "Basic secret"}, False),
    ({"authorization": "secret"}, False),
    ({"authorization": "Bearer Secret"}, False),
    ({"authorization": "Bearer sécret"}, False),
    ({"authorization": "Bearer "}, False),
    ({"sec-websocket-protocol": "wishbone, bearer.secret"}, True),
    ({"sec-websocket-protocol": "bearer.secrets,bearer.no"}, False),
    ({}, False),
]


@pytest.mark.parametrize(("headers", "right"), TOKENS)
def test_the_token_comes_as_a_header_or_a_subprotocol(headers, right):
    assert has_token(Headers(headers), "secret") is right


@pytest.mark.parametrize(
    ("path", "needs"),
    [
        ("/", False), ("/index.html", False), ("/app.js", False), ("/a.css", False),
        ("/a.svg", False), ("/health", False), ("/ready", False), ("/metrics", True),
        ("/v1/models.js", True), ("/a.json", True), ("//a.js", True), ("/ab", True), ("", True),
    ],
)  # fmt: skip
def test_the_page_needs_no_token_and_all_else_does(tmp_path, path, needs):
    service = toys.make_service(tmp_path, settings={"token": "secret"})
    with toys.closing(service):
        app = Guard(empty, service)
        assert asyncio.run(Caller(app, b"", path, "GET").run()).status == (401 if needs else 200)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models", "/"])
def test_what_drains_answers_for_its_state_alone(service, path):
    service.drain()
    caller = asyncio.run(Caller(Guard(empty, service), b"", path, "GET").run())
    assert caller.status == (200 if path in ("/health", "/ready", "/metrics") else 503)


LOCAL = Settings({"a": "a"})
PROXY = Settings({"a": "a"}, hosts=["speech.example"])
OPEN = Settings({"a": "a"}, host="0.0.0.0", token="secret")
NAMED = Settings({"a": "a"}, host="127.0.0.9")
ORIGINS = [
    (LOCAL, {"host": "localhost"}, None),
    (LOCAL, {"host": "LOCALHOST:1"}, None),
    (LOCAL, {"host": "[::1]"}, None),
    (LOCAL, {"host": "[::2]:8880"}, 421),
    (LOCAL, {"host": "127.0.0.9"}, 421),
    (NAMED, {"host": "127.0.0.9:8880"}, None),
    (LOCAL, {"host": ""}, 421),
    (LOCAL, {}, 421),
    (PROXY, {"host": "speech.example"}, None),
    (OPEN, {"host": "anything.example"}, None),
    (LOCAL, {"host": "localhost:1", "origin": "http://localhost:1"}, None),
    (LOCAL, {"host": "LocalHost:1", "origin": "HTTP://LOCALHOST:1"}, None),
    (LOCAL, {"host": "localhost:1", "origin": "http://localhost:2"}, 403),
    (LOCAL, {"host": "localhost:1", "origin": ""}, 403),
    (LOCAL, {"host": "localhost:1", "origin": "http://[::1"}, 403),
    (PROXY, {"host": "127.0.0.1:8880", "origin": "https://speech.example"}, None),
    (PROXY, {"host": "127.0.0.1:8880", "origin": "https://other.example"}, 403),
    (OPEN, {"host": "a.example", "origin": "https://b.example"}, 403),
    (OPEN, {"host": "a.example", "origin": "https://a.example"}, None),
]


@pytest.mark.parametrize(("settings", "headers", "status"), ORIGINS)
def test_names_of_this_server_and_pages_of_others_are_told_apart(settings, headers, status):
    refusal = check_origin(Headers(headers), settings)
    assert (refusal and refusal.status) == status
    if status:
        assert refusal.code == {421: "wrong_host", 403: "foreign_origin"}[status]


def test_a_wrong_name_is_shown_but_not_all_of_it():
    refusal = check_origin(Headers({"host": "x" * 64 + "yz"}), LOCAL)
    assert "'" + "x" * 64 + "'" in refusal.message


def test_a_websocket_that_is_refused_is_closed_before_it_opens(service, lines):
    sent, path = [], "/" + "y" * 300

    async def receive():
        sent.append("asked")
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    scope = {"type": built("websocket"), "path": path, "headers": [(b"host", b"x" * 100)]}
    asyncio.run(Guard(None, service)(scope, receive, send))
    asked, closed = sent
    assert asked == "asked" and (closed["type"], closed["code"]) == ("websocket.close", 1008)
    # the reason of a farewell has 123 bytes at most
    assert closed["reason"].startswith("This server is not called") and len(closed["reason"]) == 120
    assert records(lines) == [(f"WebSocket {path[:200]}", {"status": 421})]
