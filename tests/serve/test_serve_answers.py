"""An answer on its way: messages to the web server, cookies, clients of routes, and live speech."""

import asyncio
import base64
import json
from types import SimpleNamespace

import pytest
import serving_toys as toys
from serving_toys import TEXT, Brake, Caller, built, speech, until

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from pydantic import ValidationError  # noqa: E402
from starlette.requests import Request  # noqa: E402

from wishbone.core.serve.refusal import Refusal  # noqa: E402
from wishbone.core.serve.settings import Route  # noqa: E402
from wishbone.core.serve.web import (  # noqa: E402
    live_routes,
    request_guard,
    speech_routes,
)
from wishbone.core.serve.web.app import create_app  # noqa: E402
from wishbone.core.serve.web.comparison_routes import Vote  # noqa: E402
from wishbone.core.serve.web.speech_routes import (  # noqa: E402
    Events,
    SpeechRequest,
    SpeechResponse,
    client_of,
    unless_gone,
)


@pytest.fixture
def service(tmp_path):
    routes = {"both": Route({"tiny": 1.0}, "cookie")}
    service = toys.make_service(tmp_path, settings={"routes": routes})
    with toys.closing(service):
        yield service


async def stream_of(*items):
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


async def sent(response, gone=False):
    """All messages of a response, whose client stays or is gone already."""
    messages = []

    async def send(message):
        messages.append(message)

    async def receive():
        if not gone:
            await asyncio.Event().wait()
        return {"type": built("http.disconnect")}

    await response({"type": "http"}, receive, send)
    return messages


def bodies(messages):
    return [(message["body"], message["more_body"]) for message in messages[1:]]


def record(ids, frames):
    return SimpleNamespace(ids=[0] * ids, codes=[(0,)] * frames)


JOB = SimpleNamespace(record=[record(3, 5), record(4, 6)])


def test_an_answer_is_sent_part_by_part_and_then_ends():
    response = SpeechResponse(b"a", stream_of(b"b", b"c"), "audio/pcm", {"X-Own": "1"})
    messages = asyncio.run(sent(response))
    headers = dict(messages[0]["headers"])
    assert messages[0]["status"] == 200 and headers[b"x-own"] == b"1"
    assert headers[b"cache-control"] == b"no-store" and b"content-length" not in headers
    assert bodies(messages) == [(b"a", True), (b"b", True), (b"c", True), (b"", False)]


def test_an_answer_that_fails_half_way_never_ends():
    failing = stream_of(b"b", Refusal(413, "It is long.", code="too_long"))
    messages = asyncio.run(sent(SpeechResponse(b"a", failing, "audio/pcm", {})))
    assert bodies(messages) == [(b"a", True), (b"b", True)]


def test_events_that_fail_half_way_say_so_and_end():
    failing = stream_of(Refusal(413, "It is long.", code="too_long"))
    response = SpeechResponse(b"a", failing, "text/event-stream", {}, Events(JOB))
    told = bodies(asyncio.run(sent(response)))
    assert [more for _, more in told] == [True, True, False] and told[-1][0] == b""
    last = json.loads(told[1][0].removeprefix(b"data: "))
    assert (last["type"], last["error"]["code"]) == ("error", "too_long")


def test_events_end_with_counts_of_what_went_in_and_came_out():
    response = SpeechResponse(b"ab", stream_of(), "text/event-stream", {}, Events(JOB))
    told = bodies(asyncio.run(sent(response)))
    assert [more for _, more in told] == [True, True, False]
    first, last = (json.loads(body.removeprefix(b"data: ")) for body, _ in told[:2])
    assert base64.b64decode(first["audio"]) == b"ab" and told[0][0].endswith(b"\n\n")
    assert last["usage"] == {"input_tokens": 7, "output_tokens": 11, "total_tokens": 18}


def test_a_client_that_is_gone_ends_the_speech():
    ended = []

    async def endless():
        try:
            while True:
                await asyncio.sleep(0.01)
                yield b"x"
        finally:
            ended.append(True)

    messages = asyncio.run(sent(SpeechResponse(b"a", endless(), "audio/pcm", {}), gone=True))
    assert messages[0]["type"] == "http.response.start" and all(m for _, m in bodies(messages))
    assert ended == [] or ended == [True]


def test_work_is_stopped_where_its_client_goes_and_left_alone_where_it_stays():
    async def scenario():
        stopped, gone = [], asyncio.Event()

        async def work():
            try:
                await asyncio.sleep(0.05)
                return 7
            except asyncio.CancelledError:
                stopped.append(True)
                raise

        async def receive():
            # what is left of a body is no farewell
            if not gone.is_set():
                gone.set()
                return {"type": built("http.request")}
            await asyncio.sleep(0 if leaves else 30)
            return {"type": built("http.disconnect")}

        leaves = False
        assert await unless_gone(work(), receive) == 7 and stopped == []
        leaves = True
        gone.clear()
        with pytest.raises(speech_routes.Gone):
            await unless_gone(work(), receive)
        assert stopped == [True]

    asyncio.run(scenario())


def test_work_that_is_done_counts_also_where_the_client_goes_in_that_moment():
    async def scenario():
        async def work():
            return 7

        async def receive():
            return {"type": "http.disconnect"}

        assert await unless_gone(work(), receive) == 7

    asyncio.run(scenario())


def request(headers, client=("1.2.3.4", 5)):
    return Request({"type": "http", "client": client, "headers": headers})


AGENT = (b"user-agent", b"curl")
NAMED = (b"x-wishbone-client", b"ann")
JAR = (b"cookie", b"wishbone_client=jar; other=1")


@pytest.mark.parametrize(
    ("sticky", "headers", "name"),
    [
        (None, [AGENT, NAMED, JAR], "1.2.3.4 curl"),
        ("client", [AGENT, NAMED, JAR], "1.2.3.4 curl"),
        ("client", [], "1.2.3.4 "), ("header", [AGENT, NAMED, JAR], "ann"),
        ("header", [AGENT, JAR], "1.2.3.4 curl"), ("cookie", [AGENT, NAMED, JAR], "jar"),
    ],
)  # fmt: skip
def test_a_client_is_told_by_what_its_route_goes_by(sticky, headers, name):
    route = None if sticky is None else Route({"a": 1}, built(sticky))
    assert client_of(request(headers), route) == (name, "")
    assert client_of(request([AGENT], None), None) == (" curl", "")


def test_a_client_without_a_cookie_gets_one_that_nobody_else_has(service):
    route = Route({"a": 1}, "cookie")
    given = {client_of(request([AGENT]), route) for _ in range(9)}
    assert len(given) == 9 and all(name == cookie for name, cookie in given)
    assert {len(cookie) for _, cookie in given} == {32}
    caller = asyncio.run(Caller(create_app(service), speech(model="both")).run())
    cookie = caller.answer_headers[b"set-cookie"].decode()
    assert cookie.split("; ")[1:] == ["Max-Age=31536000", "Path=/", "HttpOnly", "SameSite=Strict"]
    assert caller.answer_headers[b"x-wishbone-route"] == b"both"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"seed": 2**63 - 1}, 200), ({"speed": 1}, 200), ({"speed": 1.0}, 200),
        ({"speed": 0.99}, 400), ({"speed": 1.01}, 400), ({"voice": {"id": "default"}}, 200),
        ({"voice": ""}, 200), ({"instructions": ""}, 200), ({"instructions": None}, 200),
        ({"voice": {"id": "default", "more": 1}}, 400), ({"input": "a"}, 200),
    ],
)  # fmt: skip
def test_fields_at_their_borders(service, fields, status):
    with toys.client_of(service) as client:
        body = {"model": "tiny", "input": "Hi there.", "response_format": "pcm", **fields}
        assert client.post("/v1/audio/speech", json=body).status_code == status


def test_an_answer_without_a_format_is_an_mp3_of_seed_0_and_no_events(service):
    with toys.client_of(service) as client:
        plain = client.post("/v1/audio/speech", json={"model": "tiny", "input": TEXT})
        told = {"model": "tiny", "input": TEXT, "response_format": "mp3", "seed": 0}
        assert plain.headers["content-type"] == "audio/mpeg"
        assert plain.content == client.post("/v1/audio/speech", json=told).content


def test_a_client_that_goes_before_the_first_sound_gets_nothing(service):
    async def scenario():
        brake = Brake(service.arms["tiny"].server)
        caller = Caller(create_app(service), speech())
        task = asyncio.create_task(caller.run())
        await until(lambda: service.arms["tiny"].gate.used == 1)
        caller.gone.set()
        await task
        assert (caller.status, caller.parts) == (499, [])
        brake.release()
        await until(lambda: service.is_idle)

    asyncio.run(scenario())


SCHEMAS = [
    (SpeechRequest, {"model": "a", "input": "x"}, "seed"),
    (live_routes.Start, {"type": "start", "model": "a"}, "seed"),
    (Vote, {"a": "a", "b": "b", "choice": "a"}, "seed"),
]


@pytest.mark.parametrize(("schema", "fields", "name"), SCHEMAS)
def test_a_seed_is_any_number_that_a_generator_takes_and_no_other(schema, fields, name):
    assert schema(**fields).seed == 0
    for seed in (0, 1, 2**63 - 1):
        assert schema(**fields, seed=seed).seed == seed
    for wrong in (-1, 2**63, 1.0, "1", True):
        with pytest.raises(ValidationError):
            schema(**fields, seed=wrong)
    with pytest.raises(ValidationError):
        schema(**fields, colour=1)


def test_a_request_needs_a_text_and_has_the_rest_by_itself():
    plain = SpeechRequest(model="a", input="x")
    assert (plain.voice, plain.instructions, plain.response_format) == ("default", None, "mp3")
    assert (plain.speed, plain.stream_format) == (1.0, "audio")
    assert live_routes.Start(type="start", model="a").voice == "default"
    for schema in (lambda text: SpeechRequest(model="a", input=text),
                   lambda text: live_routes.Piece(type="text", text=text)):  # fmt: skip
        assert schema("x")
        for wrong in ("", 5, None):
            with pytest.raises(ValidationError):
                schema(wrong)
    vote = Vote(a="x" * 64, b="b", choice="same", voice="v" * 64)
    assert vote.text == ""
    for field in ("a", "b", "voice"):
        with pytest.raises(ValidationError):
            Vote(**{**vote.model_dump(), field: "x" * 65})


def test_a_refusal_is_over_when_it_is_sent():
    messages = []

    async def send(message):
        messages.append(message)

    asyncio.run(request_guard._Answer(send, 1.0).refuse(Refusal(413, "It is long.")))
    start, body = messages
    assert start["status"] == 413 and body["more_body"] is False
    assert dict(start["headers"])[b"connection"] == b"close"
