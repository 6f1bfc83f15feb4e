"""Limits: slots, queue, time, length; clients that go away; the end of the server."""

import asyncio
import json
import random

import pytest
import serving_toys as toys
from serving_toys import TEXT, Brake, Caller, speech, until

from wishbone.core.serve.admission import Gate
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.web import request_guard
from wishbone.core.serve.web.app import create_app
from wishbone.core.serve.web.request_guard import Guard


@pytest.fixture
def service(tmp_path):
    with toys.closing(toys.make_service(tmp_path)) as service:
        yield service


def error_of(caller):
    return json.loads(b"".join(caller.parts))["error"]


def test_a_full_queue_is_told_when_to_come_again(service):
    async def scenario():
        app, tiny = create_app(service), service.arms["tiny"]
        brake = Brake(tiny.server)
        callers = [Caller(app, speech(seed=n)) for n in range(4)]
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        await until(lambda: tiny.gate.used == 2 and tiny.gate.waiting == 2)
        refused = await Caller(app, speech()).run()
        assert refused.status == 429 and int(refused.answer_headers[b"retry-after"]) >= 1
        assert error_of(refused)["type"] == "rate_limit_error"
        counted = b'wishbone_requests_total{outcome="queue_full",route="none",system="tiny"} 1.0'
        assert counted in service.gauges.text()
        brake.release()
        await asyncio.gather(*tasks)
        for seed, caller in enumerate(callers):
            assert caller.status == 200
            assert b"".join(caller.parts) == toys.offline(service, seed=seed)
        await until(lambda: service.is_idle)

    asyncio.run(scenario())


def test_the_first_samples_come_before_the_last_are_made(service):
    async def scenario():
        tiny = service.arms["tiny"]
        brake, caller = Brake(tiny.server), Caller(create_app(service), speech())
        task = asyncio.create_task(caller.run())
        for _ in range(400):
            brake.release(1)
            if caller.parts:
                break
            await asyncio.sleep(0.005)
        early = b"".join(caller.parts)
        assert early and not task.done()
        brake.release()
        await task
        assert len(b"".join(caller.parts)) > 2 * len(early)

    asyncio.run(scenario())


def test_who_is_cancelled_while_a_message_is_sent_goes_no_further():
    async def scenario():
        async def send(message):
            # the client leaves just when the message is through
            working.cancel()

        async def work():
            await answer({"type": "http.response.body"})
            await asyncio.sleep(0)
            passed.append("went on")

        answer, passed = request_guard._Answer(send, 5.0), []
        working = asyncio.create_task(work())
        await asyncio.wait({working}, timeout=10)
        assert working.cancelled() and passed == []

    asyncio.run(scenario())


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_away_frees_its_slot_within_two_steps(service, begun):
    async def scenario():
        app, tiny = create_app(service), service.arms["tiny"]
        brake = Brake(tiny.server)
        caller = Caller(app, speech(40 * "so it goes on "))
        task = asyncio.create_task(caller.run())
        if begun:
            while not caller.begun.is_set():
                brake.release_one()
                await asyncio.sleep(0.002)
        await until(lambda: tiny.gate.used == 1)
        caller.gone.set()
        await task
        brake.release(2)
        await until(lambda: tiny.gate.used == 0 and tiny.server.pool.free == 2)
        brake.release()
        # counted a moment after the slot is free
        await until(lambda: b'outcome="cancelled"' in service.gauges.text())

    asyncio.run(scenario())


def test_who_goes_away_in_the_queue_leaves_it(service):
    async def scenario():
        app, tiny = create_app(service), service.arms["tiny"]
        brake = Brake(tiny.server)
        callers = [Caller(app, speech(seed=n)) for n in range(4)]
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        await until(lambda: tiny.gate.waiting == 2)
        callers[2].gone.set()
        await tasks[2]
        assert (tiny.gate.waiting, tiny.gate.inside) == (1, 3)
        brake.release()
        await asyncio.gather(*tasks)
        assert b"".join(callers[3].parts) == toys.offline(service, seed=3)
        await until(lambda: service.is_idle)

    asyncio.run(scenario())


def test_half_of_many_are_dropped_and_the_others_are_whole(tmp_path):
    """At random moments: all slots are free again, and who stayed gets what it gets alone."""

    async def scenario(service):
        app, dice = create_app(service), random.Random(0)
        callers = [Caller(app, speech(f"{TEXT} {n}", seed=n)) for n in range(60)]
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        for caller in callers[::2]:
            await asyncio.sleep(0.03 * dice.random())
            caller.gone.set()
        await asyncio.gather(*tasks)
        await until(lambda: service.is_idle)
        assert service.arms["tiny"].server.pool.free == 4
        for seed, caller in list(enumerate(callers))[1::2]:
            expected = toys.offline(service, f"{TEXT} {seed}", seed)
            assert (caller.status, b"".join(caller.parts)) == (200, expected)

    with toys.closing(toys.make_service(tmp_path, slots=4, queue=60)) as service:
        asyncio.run(scenario(service))


def test_what_takes_too_long_ends(tmp_path):
    async def scenario(service):
        tiny = service.arms["tiny"]
        brake = Brake(tiny.server)
        caller = await Caller(create_app(service), speech()).run()
        assert (caller.status, error_of(caller)["code"]) == (504, "timeout")
        brake.release()
        await until(lambda: service.is_idle)

    with toys.closing(toys.make_service(tmp_path, timeout=0.2)) as service:
        asyncio.run(scenario(service))


def test_speech_that_grows_too_long_is_broken_off_or_says_so(tmp_path):
    async def scenario(service):
        app = create_app(service)
        whole = await Caller(app, speech(stream_format="sse")).run()
        last = json.loads(whole.parts[-1].decode().removeprefix("data: "))
        assert (last["type"], last["error"]["code"]) == ("error", "too_long")
        cut = await Caller(app, speech()).run()
        assert len(b"".join(cut.parts)) <= 2 * 24_000

    with toys.closing(toys.make_service(tmp_path, seconds=1.0)) as service:
        asyncio.run(scenario(service))


def test_a_body_is_bounded_before_and_while_it_is_read(service):
    async def scenario():
        app = create_app(service)
        by_header = Caller(app, b"", headers=[(b"content-length", b"9999999999")])
        assert (await by_header.run()).status == 413
        lying = Caller(app, speech("x" * 300_000), headers=[(b"content-length", b"10")])
        assert (await lying.run()).status == 413
        odd = Caller(app, speech(), headers=[(b"content-length", b"-1")])
        assert (await odd.run()).status == 413

    asyncio.run(scenario())


def test_a_request_may_take_longer_than_its_body(tmp_path):
    async def scenario(service):
        brake = Brake(service.arms["tiny"].server)
        caller = Caller(create_app(service), speech(seed=2))
        task = asyncio.create_task(caller.run())
        await asyncio.sleep(0.5)  # the patience with a body that does not come, some times over
        brake.release()
        await task
        assert caller.status == 200 and b"".join(caller.parts) == toys.offline(service, seed=2)

    with toys.closing(toys.make_service(tmp_path, stall=0.1)) as service:
        asyncio.run(scenario(service))


def test_a_body_that_never_comes_is_not_waited_for(tmp_path):
    async def scenario(service):
        caller = await Caller(create_app(service), None).run()
        assert (caller.status, error_of(caller)["code"]) == (408, "timeout")

    with toys.closing(toys.make_service(tmp_path, stall=0.1)) as service:
        asyncio.run(scenario(service))


def test_draining_finishes_what_runs_and_refuses_the_rest(service):
    async def scenario():
        app, tiny = create_app(service), service.arms["tiny"]
        brake = Brake(tiny.server)
        callers = [Caller(app, speech(seed=n)) for n in range(3)]
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        await until(lambda: tiny.gate.waiting == 1)
        service.drain()
        late = await Caller(app, speech()).run()
        assert (late.status, error_of(late)["code"]) == (503, "draining")
        ready = await Caller(app, b"", "/ready", "GET").run()
        assert ready.status == 503
        assert not service.is_idle
        brake.release()
        await asyncio.gather(*tasks)
        assert [caller.status for caller in callers] == [200, 200, 503]
        assert b"".join(callers[1].parts) == toys.offline(service, seed=1)
        await until(lambda: service.is_idle)

    asyncio.run(scenario())


def test_the_time_to_come_again_is_that_of_the_queue():
    async def scenario():
        gate = Gate(2, 9)
        for _ in range(80):  # until the mean forgets what it began with
            await gate.take()
            gate.leave(5.9)
        assert gate.retry_after() == 3  # one who comes now, in two slots
        for _ in range(2):
            await gate.take()
        waiting = [asyncio.create_task(gate.take()) for _ in range(3)]
        await asyncio.sleep(0)
        assert gate.retry_after() == 12  # behind three others
        for _ in range(3):
            gate.leave(0.0)
        await asyncio.gather(*waiting)
        assert gate.used == 2

    asyncio.run(scenario())


def test_nobody_is_sent_back_at_once():
    async def scenario():
        gate = Gate(1, 1)
        for _ in range(40):
            await gate.take()
            gate.leave(0.0)
        assert gate.retry_after() == 1

    asyncio.run(scenario())


def test_a_gate_hands_on_the_slot_of_somebody_who_left_in_that_moment():
    async def scenario():
        gate = Gate(1, 5)
        await gate.take()
        first, second = asyncio.create_task(gate.take()), asyncio.create_task(gate.take())
        await asyncio.sleep(0)
        gate.leave(0.1)
        first.cancel()  # its turn has come, and it has not run since
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(second, 1)
        assert (gate.used, gate.waiting) == (1, 0)
        gate.leave(0.1)
        assert gate.used == 0
        gate.close()
        with pytest.raises(Refusal):
            await gate.take()

    asyncio.run(scenario())


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_that_nobody_foresaw_is_an_answer_where_none_has_begun(service, begun):
    async def broken(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    caller = asyncio.run(Caller(Guard(broken, service), b"", "/health", "GET").run())
    assert caller.status == (200 if begun else 500)
    assert begun or error_of(caller)["code"] == "internal"
    assert not begun or caller.parts == []
