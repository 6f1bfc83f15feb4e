"""One request from its slot to its last byte: its bounds, what is written of it, who is next."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import serving_toys as toys
import torch
from serving_toys import TEXT, Brake, Caller, speech, until

from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.contract.sentences import PIECE_END
from wishbone.core.serve import spoken_job
from wishbone.core.serve.admission import Gate
from wishbone.core.serve.arriving_pieces import ArrivingPieces
from wishbone.core.serve.encoding import Encoder
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.spoken_job import Course, Job, Order
from wishbone.core.serve.web.app import create_app
from wishbone.core.speak.server import Cancelled
from wishbone.core.speak.voice import Voice


@pytest.fixture
def service(tmp_path):
    with toys.closing(toys.make_service(tmp_path, settings={"log": True})) as service:
        yield service


def of(stream, tiny):
    """The arm with a stream of its own instead of speech."""
    tiny.server.stream = stream
    return tiny


async def spoken(job):
    return [data async for data in job.chunks()]


def job_of(arm, seconds=10.0, timeout=20.0, text=TEXT):
    return Job(arm, Order(text, None, "", 0), Encoder(arm.sample_rate), seconds, timeout)


def lines(folder):
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def error_of(caller):
    return json.loads(b"".join(caller.parts))["error"]


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
def test_the_longest_speech_is_allowed_and_a_sample_more_is_not(tmp_path, over, status):
    """Of chunks, the one that would go over is not sent: here it is the first one."""
    arm = toys.arm()

    def stream(*arguments, **options):
        yield torch.zeros(12_000 + over)

    with toys.closing(toys.make_service(tmp_path, [of(stream, arm)], seconds=0.5)) as service:
        caller = asyncio.run(Caller(create_app(service), speech()).run())
        assert caller.status == status
        if over:
            assert (error_of(caller)["code"], error_of(caller)["param"]) == ("too_long", "input")
        outcome = "too_long" if over else "ok"
        assert f'outcome="{outcome}"' in service.gauges.text().decode()


def test_a_system_that_says_nothing_is_an_error_of_the_server(service, tmp_path):
    def stream(*arguments, **options):
        yield torch.zeros(0)

    of(stream, service.arms["tiny"])
    caller = asyncio.run(Caller(create_app(service), speech()).run())
    assert (caller.status, error_of(caller)["code"]) == (500, "no_audio")
    (line,) = lines(tmp_path)
    assert (line["failure"], line["seconds"], line["first_sound"]) == ("no_audio", 0.0, None)


def test_an_empty_chunk_is_no_sound(service):
    added = []

    class Recording(Encoder):
        def add(self, samples):
            added.append(len(samples))
            return super().add(samples)

    def stream(*arguments, **options):
        yield torch.zeros(0)
        added.append("-")
        yield torch.zeros(5)
        yield torch.zeros(7)

    async def scenario():
        arm = of(stream, service.arms["tiny"])
        job = Job(arm, Order(TEXT, None, "", 0), Recording(24_000), 10.0, 10.0)
        assert await spoken(job) == [bytes(10), bytes(14)]
        assert added == ["-", 5, 7] and job.course.samples == 12
        assert job.is_cancelled  # nobody wants more of it

    asyncio.run(scenario())


def test_a_stream_that_fails_is_closed_and_its_slot_is_free(service):
    ended = []

    def stream(*arguments, **options):
        try:
            yield torch.zeros(24_000 * 11)
        finally:
            ended.append(True)

    async def scenario():
        tiny = of(stream, service.arms["tiny"])
        with pytest.raises(Refusal, match="longer than this server allows"):
            await spoken(job_of(tiny))
        await until(lambda: tiny.gate.used == 0)

    asyncio.run(scenario())
    assert ended == [True]


FAILURES = [
    (Cancelled(), 499, "cancelled", None),
    (UsageError("There is nothing.", "x", "Give more."), 400, "unsupported_value", "input"),
    (CheckpointError("It is damaged.", "x", "Make it again."), 400, "unsupported_value", None),
]


@pytest.mark.parametrize(("error", "status", "code", "param"), FAILURES)
def test_every_error_of_the_thread_is_one_of_the_request(service, error, status, code, param):
    def stream(*arguments, **options):
        raise error
        yield

    async def scenario():
        job = job_of(of(stream, service.arms["tiny"]))
        with pytest.raises(Refusal) as caught:
            await spoken(job)
        assert (caught.value.status, caught.value.code) == (status, code)
        assert caught.value.param == param and job.course.failure == code

    asyncio.run(scenario())


def test_an_error_that_nobody_foresaw_stays_what_it_is(service):
    def stream(*arguments, **options):
        raise ZeroDivisionError("why")
        yield

    async def scenario():
        job = job_of(of(stream, service.arms["tiny"]))
        with pytest.raises(ZeroDivisionError):
            await spoken(job)
        assert job.course.failure == "error"

    asyncio.run(scenario())


def test_an_arriving_text_is_not_read_for_words_beforehand(service):
    """It could not be: nothing of it is there yet."""
    asked = []
    service.arms["tiny"].check_text = asked.append

    async def scenario():
        pieces = ArrivingPieces()
        pieces.add(TEXT)
        pieces.end()
        await spoken(job_of(service.arms["tiny"], text=pieces))
        assert asked == []
        await spoken(job_of(service.arms["tiny"]))
        assert asked == [TEXT]

    asyncio.run(scenario())


def test_times_are_counted_from_the_arrival_and_from_the_slot(service, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(spoken_job.time, "monotonic", lambda: clock.now)
    course = Course(100.0)
    clock.now = 103.0
    assert course.elapsed == 3.0
    course.begun = 102.0
    assert course.elapsed == 1.0
    assert (course.samples, course.spent, course.failure) == (0, 0.0, "")
    monkeypatch.undo()

    def stream(*arguments, **options):
        clock.now = 107.0
        yield torch.zeros(10)
        clock.now = 109.0
        yield torch.zeros(10)

    async def scenario():
        job = job_of(of(stream, service.arms["tiny"]))
        clock.now = 100.0
        real, monotonic = spoken_job.time, SimpleNamespace(monotonic=lambda: clock.now)
        spoken_job.time = monotonic
        try:
            job.course.arrival, job._deadline = 98.0, 1000.0
            await spoken(job)
        finally:
            spoken_job.time = real
        assert (job.course.first_sound, job.course.spent) == (9.0, 9.0)
        assert job.course.begun == 100.0

    asyncio.run(scenario())


def test_a_request_that_waits_too_long_for_a_slot_is_over(tmp_path):
    async def scenario(service):
        app, tiny = create_app(service), service.arms["tiny"]
        brake = Brake(tiny.server)
        callers = [Caller(app, speech(seed=n)) for n in range(3)]
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        await asyncio.gather(*tasks)
        assert [caller.status for caller in callers] == [504] * 3
        assert (tiny.gate.waiting, tiny.gate.inside) == (0, 0)
        brake.release()
        await until(lambda: service.is_idle)
        text = service.gauges.text().decode()
        assert 'wishbone_requests_total{outcome="timeout",route="none",system="tiny"} 3.0' in text

    with toys.closing(toys.make_service(tmp_path, timeout=0.3, settings={"log": True})) as service:
        asyncio.run(scenario(service))
    assert [line["failure"] for line in lines(tmp_path)] == ["timeout"] * 3
    assert all(0.2 < line["spent"] < 20 and not line["seconds"] for line in lines(tmp_path))


def test_bytes_for_a_loop_that_is_closed_are_dropped(service):
    async def make():
        return job_of(service.arms["tiny"])

    job = asyncio.run(make())
    job._put(b"late")  # by a thread that outlives the process' end


def test_the_line_of_a_request_has_what_was_asked_and_what_came(service, tmp_path):
    with toys.client_of(service) as client:
        body = {"model": "tiny", "input": TEXT, "response_format": "pcm", "seed": 9}
        answer = client.post("/v1/audio/speech", json=body)
        client.post("/v1/audio/speech", json={**body, "input": "Ä?!", "seed": 10})
    line, refused = lines(tmp_path)
    assert line["request"] == answer.headers["x-request-id"] != refused["request"]
    assert (line["arm"], line["route"], line["text"], line["seed"]) == ("tiny", "", TEXT, 9)
    assert line["seconds"] == len(answer.content) / 2 / 24_000 and line["failure"] == ""
    assert 0 < line["first_sound"] <= line["spent"] + 1 and line["voice"] == ""
    assert (refused["failure"], refused["seconds"]) == ("invalid_value", 0.0)
    assert "Ä" in (tmp_path / "items.jsonl").read_text(encoding="utf-8")  # for people to read


def test_a_voice_is_named_in_the_line(service, tmp_path):
    async def scenario():
        order = Order(TEXT, Voice(name="me"), "", 0)
        choice = service.choose("tiny", "")
        job = service.job(choice, order, Encoder(24_000))
        async for _ in service.speak(choice, job):
            pass

    asyncio.run(scenario())
    assert [line["voice"] for line in lines(tmp_path)] == ["me"]


def test_pieces_arrive_in_their_order_and_are_counted():
    pieces = ArrivingPieces()
    pieces.add("one ")
    pieces.add("two")
    pieces.flush()
    pieces.end()
    assert (pieces.text, pieces.size) == ("one two", 8)
    assert list(pieces) == ["one ", "two", PIECE_END]
    pieces = ArrivingPieces()
    pieces.add("one ")
    pieces.cancel()
    with pytest.raises(Cancelled):
        list(pieces)


def test_the_newest_request_weighs_a_fifth_in_the_hint():
    async def scenario():
        gate = Gate(1, 9)
        assert gate.retry_after() == 1
        await gate.take()
        gate.leave(10.5)  # 1 + (10.5 - 1) / 5 = 2.9
        assert gate.retry_after() == 3
        await gate.take()
        gate.leave(3.9)  # 2.9 + 1.0 / 5 = 3.1
        assert gate.retry_after() == 4

    asyncio.run(scenario())


@pytest.mark.parametrize(("slots", "queue"), [(1, 0), (2, 1), (3, 4)])
def test_as_many_come_in_as_there_are_slots_and_places(slots, queue):
    gate = Gate(slots, queue)
    inside = [gate.request() for _ in range(slots + queue)]
    for request in inside:
        request.__enter__()
    assert gate.inside == slots + queue
    with pytest.raises(Refusal) as caught, gate.request():
        pass
    assert caught.value.status == 429
    inside.pop().__exit__(None, None, None)
    with gate.request():
        assert gate.inside == slots + queue
    assert gate.inside == slots + queue - 1


def test_who_came_first_is_served_first_also_where_a_slot_is_free():
    async def scenario():
        gate, order = Gate(1, 9), []

        async def come(name):
            await gate.take()
            order.append(name)

        await gate.take()
        tasks = [asyncio.create_task(come(n)) for n in range(3)]
        await asyncio.sleep(0)
        assert (gate.used, gate.waiting) == (1, 3)
        tasks[1].cancel()
        gate.leave(0.1)
        late = asyncio.create_task(come("late"))
        for _ in range(4):
            await asyncio.sleep(0)
        gate.leave(0.1)
        for _ in range(4):
            await asyncio.sleep(0)
        gate.leave(0.1)
        await asyncio.gather(tasks[0], tasks[2], late)
        assert order == [0, 2, "late"] and (gate.used, gate.waiting) == (1, 0)

    asyncio.run(scenario())


def test_closing_refuses_who_waits_and_keeps_the_count_of_slots():
    async def scenario():
        gate = Gate(1, 9)
        await gate.take()
        waiting = [asyncio.create_task(gate.take()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()  # in the same moment
        gate.close()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [getattr(each, "status", None) for each in told] == [503, None, 503]
        assert isinstance(told[1], asyncio.CancelledError)
        assert (gate.used, gate.waiting) == (1, 0)
        with pytest.raises(Refusal) as caught, gate.request():
            pass
        assert caught.value.status == 503 and gate.inside == 0
        gate.leave(0.1)
        assert gate.used == 0

    asyncio.run(scenario())
