"""An answer on its way: messages to the web server, cookies, clients of routes, and live speech."""

import asyncio
import base64
import json
from types import SimpleNamespace

import pytest
import serving_toys as toys
from serving_toys import TEXT, Brake, Caller, built, speech, until

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from starlette.requests import Request  # noqa: E402

from wishbone.core.serve.refusal import Refusal  # noqa: E402
from wishbone.core.serve.settings import Route  # noqa: E402
from wishbone.core.serve.web import live_routes, log_lines, speech_routes  # noqa: E402
from wishbone.core.serve.web.app import create_app  # noqa: E402
from wishbone.core.serve.web.live_routes import Conversation  # noqa: E402
from wishbone.core.serve.web.speech_routes import (  # noqa: E402
    Events,
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


class Socket:
    """A WebSocket of a client that sends what is in its list, and then stays silent or goes."""

    def __init__(self, *messages, headers=(), stays=True):
        self.messages, self.stays = list(messages), stays
        self.headers, self.cookies = dict(headers), {}
        self.client = SimpleNamespace(host="1.2.3.4")
        self.told, self.audio, self.closed = [], 0, None
        self.pause = 0.0

    async def receive(self):
        if self.messages:
            message = self.messages.pop(0)
            if callable(message):
                message = await message()
            data = message if isinstance(message, str) else json.dumps(message)
            return {"type": built("websocket.receive"), "text": data}
        if self.stays:
            await asyncio.Event().wait()
        return {"type": built("websocket.disconnect")}

    async def send_text(self, text):
        await asyncio.sleep(self.pause)
        self.told.append(json.loads(text))

    async def send_bytes(self, data):
        await asyncio.sleep(self.pause)
        self.audio += len(data)

    async def close(self, code):
        self.closed = code


START = {"type": "start", "model": "tiny"}


def text(words):
    return {"type": "text", "text": words}


def converse(service, *messages, seconds=20, **options):
    socket = Socket(*messages, **options)

    async def scenario():
        await asyncio.wait_for(Conversation(service, socket).run(), seconds)
        await until(lambda: service.is_idle)

    asyncio.run(scenario())
    return socket


def test_a_client_that_goes_is_said_farewell_to(service):
    socket = converse(service, START, stays=False)
    assert [each["type"] for each in socket.told] == ["started"] and socket.closed == 1000


def test_a_client_that_says_nothing_for_too_long_is_left(tmp_path):
    with toys.closing(toys.make_service(tmp_path, timeout=0.2)) as service:
        socket = converse(service)
        assert socket.closed == 1000 and socket.told == []


def test_a_client_on_whose_connection_nothing_is_spoken_is_left_when_the_server_stops(service):
    service.drain()
    socket = converse(service)
    assert (socket.closed, socket.told) == (1001, [])

    async def scenario():
        conversation = Conversation(service, Socket())
        with pytest.raises(Refusal) as caught:
            await conversation._start(live_routes.Start(**START))
        assert (caught.value.status, caught.value.code) == (503, "draining")

    asyncio.run(scenario())


def test_what_is_spoken_when_the_server_stops_is_spoken_to_its_end(service):
    async def scenario():
        async def drain():
            await until(lambda: service.arms["tiny"].gate.used == 1)
            service.drain()
            return {"type": "end"}

        socket = Socket(START, text(TEXT), drain)
        await asyncio.wait_for(Conversation(service, socket).run(), 20)
        assert socket.told[-1]["type"] == "done" and socket.closed == 1001
        assert socket.audio == len(toys.offline(service))

    asyncio.run(scenario())


def test_a_client_that_takes_nothing_over_a_websocket_is_left(tmp_path):
    with toys.closing(toys.make_service(tmp_path, stall=0.1)) as service:
        socket = Socket(START, text(TEXT), {"type": "end"})
        socket.pause = 30.0
        asyncio.run(asyncio.wait_for(Conversation(service, socket).run(), 20))
        assert socket.told == [] and socket.closed == 1000 and service.is_idle


def test_a_text_that_arrives_has_its_last_character_and_not_one_more(tmp_path):
    with toys.closing(toys.make_service(tmp_path, characters=20)) as service:
        flush = {"type": "flush"}
        full = [START, text("a" * 9 + " "), flush, text("b" * 9)]
        socket = converse(service, *full, stays=False)
        assert [each["type"] for each in socket.told] == ["started"]
        for more in (text("c"), flush):
            socket = converse(service, *full, more, stays=False)
            assert socket.told[1]["error"]["code"] == "too_long"
            assert socket.told[1]["error"]["message"].startswith("text has 21 characters")
        long = {**START, "instructions": "x" * 21}
        assert converse(service, long, stays=False).told[0]["error"]["param"] == "instructions"


def test_a_connection_outlives_its_mistakes(service):
    cancel, end = {"type": "cancel"}, {"type": "end"}
    socket = converse(
        service, cancel, "{", end, START, START, cancel, cancel, text("x"), stays=False
    )
    told = [each.get("error", {}).get("code", each["type"]) for each in socket.told]
    assert told == [
        "invalid_json", "not_started", "started", "already_started", "cancelled", "not_started",
    ]  # fmt: skip
    statuses = [each["error"]["param"] for each in socket.told if "error" in each]
    assert statuses == [None, "type", "type", "type"]


def test_an_utterance_that_is_over_tells_how_long_it_was(service):
    async def scenario():
        socket = Socket(START, text(TEXT), {"type": "end"})
        running = asyncio.create_task(Conversation(service, socket).run())
        await until(lambda: len(socket.told) == 2)
        assert socket.told[0]["request_id"] == log_lines.REQUEST.get()
        assert (socket.told[0]["arm"], socket.told[0]["sample_rate"]) == ("tiny", 24_000)
        seconds = round(socket.audio / 48_000, 3)
        assert socket.told[1] == {"type": "done", "seconds": seconds}
        socket.stays = False
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_client_of_a_route_is_told_by_its_name_its_cookie_or_its_address(service):
    def told(headers=(), cookie=None, client=True):
        socket = Socket(headers=headers)
        socket.cookies = {"wishbone_client": cookie} if cookie else {}
        socket.client = socket.client if client else None
        return Conversation(service, socket)._client()

    agent = {"user-agent": "curl"}
    assert told({"X-Wishbone-Client": "ann", **agent}, "jar") == "ann"
    assert told(agent, "jar") == "jar" and told(agent) == "1.2.3.4 curl"
    assert told() == "1.2.3.4 " and told(agent, client=False) == " curl"
