"""Live speech by a socket of the test's own: what is answered, what bounds it, how it ends."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import serving_toys as toys
from serving_toys import TEXT, built, until

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from starlette.websockets import WebSocketDisconnect  # noqa: E402

from wishbone.core.serve.refusal import Refusal  # noqa: E402
from wishbone.core.serve.web import live_routes, log_lines  # noqa: E402
from wishbone.core.serve.web.live_routes import Conversation  # noqa: E402


@pytest.fixture
def service(tmp_path):
    with toys.closing(toys.make_service(tmp_path)) as service:
        yield service


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


ENDS = [WebSocketDisconnect(1001), RuntimeError("closed"), OSError("gone"), TimeoutError()]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["receive", "send_text", "send_bytes", "close"])
def test_a_connection_that_breaks_anywhere_ends_without_an_error(service, place, error):
    async def scenario():
        socket = Socket(START, text(TEXT), {"type": "end"}, stays=place == "send_bytes")
        ended = asyncio.Event()

        async def broken(*arguments):
            ended.set()
            raise error

        setattr(socket, place, broken)
        conversation = Conversation(service, socket)
        running = asyncio.create_task(conversation.run())
        await asyncio.wait_for(ended.wait(), 20)
        if place == "send_bytes":
            await until(lambda: service.is_idle)
            assert len(socket.told) == 1  # started, and nothing after it
            socket.stays, receiving = False, running
            receiving.cancel()
            await asyncio.gather(running, return_exceptions=True)
        else:
            await asyncio.wait_for(running, 20)
        await until(lambda: service.is_idle)

    asyncio.run(scenario())


def test_the_farewell_of_a_server_that_stops_is_another(service):
    async def scenario(stops):
        socket = Socket(stays=False)
        conversation = Conversation(service, socket)
        service.is_draining = stops
        await asyncio.wait_for(conversation.run(), 20)
        return socket.closed

    assert asyncio.run(scenario(False)) == 1000 and asyncio.run(scenario(True)) == 1001
