"""The load test's own arithmetic: figures for people, processes, answers, memory, failures."""

import http.client
import http.server
import io
import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from wishbone.core.contract.errors import WishboneError
from wishbone.core.serve import load_test
from wishbone.core.serve.load_test import LoadResult

METRICS = """# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 3.145728e+06
process_cpu_seconds_total 12.5
wishbone_audio_seconds_total{route="none",system="a"} 7.0
wishbone_audio_seconds_total{route="x",system="b"} 1.5
wishbone_slots{system="a"} 8.0
wishbone_slots_used{system="a"} 3.0
"""


@contextmanager
def answering(status=200, parts=(b"ab", b"cdef"), length=None):
    """A web server that gives one answer to everybody -> its port, and the bodies it was sent."""
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            size = int(self.headers["Content-Length"])
            bodies.append((self.path, json.loads(self.rfile.read(size))))
            self.do_GET()

        def do_GET(self):  # noqa: N802
            data = METRICS.encode() if self.path == "/metrics" else b"".join(parts)
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1], bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answer_is_all_of_its_samples_and_the_time_to_the_first(monkeypatch):
    clock = iter([100.0, 100.25])
    monkeypatch.setattr(load_test.time, "perf_counter", lambda: next(clock))
    with answering() as (port, bodies):
        assert load_test._ask(port, "a", "Hello.", 7) == (b"abcdef", 0.25)
    body = {"model": "a", "input": "Hello.", "seed": 7, "response_format": "pcm"}
    assert bodies == [("/v1/audio/speech", body)]


def test_an_answer_that_is_none_is_a_failure_in_words():
    with answering(status=503, parts=(b"x" * 150, b"y" * 150)) as (port, _):
        with pytest.raises(OSError, match="status 503") as caught:
            load_test._ask(port, "a", "Hello.", 7)
    assert repr(b"x" * 150 + b"y" * 50) in str(caught.value)
    with answering(length=100) as (port, _), pytest.raises(OSError, match="IncompleteRead"):
        load_test._ask(port, "a", "Hello.", 7)


def test_the_metrics_are_sums_over_systems_and_routes():
    with answering() as (port, _):
        assert load_test._metrics(port) == {
            "memory": 3.0, "work": 12.5, "audio": 8.5, "slots": 8.0,
        }  # fmt: skip


def test_work_is_that_of_a_second_of_audio():
    before = {"work": 10.0, "audio": 4.0}
    assert load_test._work(before, {"work": 13.0, "audio": 10.0}) == 0.5
    assert load_test._work(before, {"work": 13.0, "audio": 4.0}) == pytest.approx(3e9)


RESULT = LoadResult(
    "a", 2, 8.0, slots=4, requests=30, failed=1, unequal=2, audio_seconds=100.0,
    failures=["failed: why"], first_sound_ms={"median": 12.6, "95 %": 99.4},
    memory_mib={"ready": 100.4, "end": 120.6}, settled_after=2.0, growth_percent=-3.25,
    spread_percent=4.44, work_per_second={"server": 0.1234}, ratio=55.55, exit_code=0,
)  # fmt: skip


def test_figures_are_told_to_people():
    assert RESULT.lines() == [
        "a: 2 clients for 8 s, 4 slots",
        "requests: 30, failed: 1, unequal: 2",
        "audio: 100 s, 12.5 a second",
        "first sound: median 13 ms, 95 % 99 ms",
        "memory: ready 100 MiB, end 121 MiB",
        "from second 2 on: -3.2 % to the end, spread 4.4 %",
        "processor time per second of audio: server 0.123 s; ratio 55.5",
        "exit code after SIGTERM: 0",
        "failed: why",
    ]


@pytest.mark.parametrize(
    ("failed", "unequal", "code", "whole"),
    [(0, 0, 0, True), (1, 0, 0, False), (0, 1, 0, False), (0, 0, 1, False), (0, 0, None, False)],
)
def test_a_load_is_whole_where_nothing_failed_nothing_differed_and_it_ended_well(
    failed, unequal, code, whole
):
    result = LoadResult("a", 1, 1.0, failed=failed, unequal=unequal, exit_code=code)
    assert result.is_whole is whole


@pytest.mark.parametrize(
    ("settled", "spread", "flat"),
    [(60.0, 5.0, True), (60.0, 5.01, False), (59.9, 50.0, True), (61.0, 5.01, False)],
)
def test_memory_counts_from_a_minute_on(settled, spread, flat):
    result = LoadResult("a", 1, 1.0, settled_after=settled, spread_percent=spread)
    assert result.is_flat is flat


def test_nothing_is_measured_before_it_is():
    empty = LoadResult("a", 1, 1.0)
    assert (empty.slots, empty.requests, empty.failed, empty.unequal) == (0, 0, 0, 0)
    assert (empty.audio_seconds, empty.settled_after, empty.growth_percent) == (0, 0, 0)
    assert (empty.spread_percent, empty.ratio, empty.exit_code) == (0, 0, None)
    assert not empty.is_whole and empty.is_flat and empty.lines()[1].startswith("requests: 0,")


class Process:
    """A server's process with that log, which ends only by force."""

    def __init__(self, log):
        self.stderr, self.killed, self.waited = io.StringIO(log), False, False

    def kill(self):
        self.killed = True

    def poll(self):
        return 0 if self.killed else None

    def wait(self):
        self.waited = True


@pytest.fixture
def begun(monkeypatch):
    """Commands that were begun, and the process that each gets."""
    commands = []

    def begin(command, **options):
        commands.append((command, options))
        return begun.process

    begun = SimpleNamespace(commands=commands, process=None)
    monkeypatch.setattr(load_test.subprocess, "Popen", begin)
    return begun


def test_a_server_is_ready_at_its_port_without_a_token_and_ends_with_the_test(begun, monkeypatch):
    monkeypatch.setenv("WISHBONE_TOKEN", "secret")
    monkeypatch.setenv("WISHBONE_OTHER", "kept")
    begun.process = Process("loading\nready at http://127.0.0.1:4321\none\ntwo\n")
    with load_test.run_server(["a", "--queue", "3"]) as (process, port, lines):
        assert (process, port) == (begun.process, 4321) and not process.killed
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.daemon:
                thread.join(5)
        assert [line.strip() for line in lines][0] == "loading" and "two\n" in lines
    assert process.killed and process.waited
    ((command, options),) = begun.commands
    assert command[1:] == ["-m", "wishbone", "serve", "--port", "0", "a", "--queue", "3"]
    assert "WISHBONE_TOKEN" not in options["env"] and options["env"]["WISHBONE_OTHER"] == "kept"
    assert options["text"] is True


def test_a_server_that_ended_by_itself_is_not_killed(begun):
    begun.process = Process("ready at http://127.0.0.1:1\n")
    begun.process.poll = lambda: 0
    with load_test.run_server([]):
        pass
    assert not begun.process.killed and not begun.process.waited


def test_a_server_that_does_not_start_is_told_by_the_end_of_its_log(begun):
    begun.process = Process("one\ntwo\nthree\nfour\n")
    with pytest.raises(WishboneError, match="did not start") as caught, load_test.run_server([]):
        pass
    assert caught.value.do.split() == ["two", "three", "four"]
    assert begun.process.killed
    begun.process = Process("")
    with pytest.raises(WishboneError) as caught, load_test.run_server([]):
        pass
    assert caught.value.do == "See its log."


def test_a_server_that_never_says_a_word_is_killed_in_the_end(begun, monkeypatch):
    monkeypatch.setattr(load_test, "START", 0.05)
    begun.process = Process("")
    ended = threading.Event()
    begun.process.kill = ended.set

    class Silent:
        def __iter__(self):
            assert ended.wait(10)
            return iter(())

    begun.process.stderr = Silent()
    with pytest.raises(WishboneError), load_test.run_server([]):
        pass


def test_the_clients_ask_until_the_time_is_over_and_failures_are_told_five_times(monkeypatch):
    monkeypatch.setattr(load_test, "LOOK", 0.01)
    looks = iter(range(1, 10_000))
    monkeypatch.setattr(load_test, "_metrics", lambda port: {"memory": float(next(looks) % 7 + 1)})
    asked, lock = [], threading.Lock()

    def ask(port, system, text, seed):
        with lock:
            asked.append((port, system, text, seed))
            number = len(asked)
        threading.Event().wait(0.005)
        if number % 2:
            raise OSError(f"it is {number}")
        return b"%d" % seed, 0.125

    monkeypatch.setattr(load_test, "_ask", ask)
    result = LoadResult("a", 3, 0.4, settled_after=0.1)
    requests = [(f"text {n}", n) for n in range(8)]
    load_test._load(result, 5, requests, [b"%d" % n for n in range(8)])
    assert result.requests == len(asked) > 20 and result.unequal == 0
    assert result.failed == sum(n % 2 for n in range(1, len(asked) + 1))
    assert len(result.failures) == 5 and result.failures[0] == "failed: it is 1"
    assert {each[:2] for each in asked} == {(5, "a")} and len(set(asked)) == 8
    assert result.first_sound_ms == {"median": 125.0, "95 %": 125.0, "most": 125.0}
    assert result.memory_mib["settled"] == 2.0
    assert (result.memory_mib["least"], result.memory_mib["most"]) == (1.0, 7.0)


def test_clients_that_all_fail_have_no_first_sound(monkeypatch):
    monkeypatch.setattr(load_test, "LOOK", 0.01)
    monkeypatch.setattr(load_test, "_metrics", lambda port: {"memory": 1.0})

    def ask(*request):
        threading.Event().wait(0.01)
        raise http.client.HTTPException if False else ConnectionRefusedError("no")

    monkeypatch.setattr(load_test, "_ask", ask)
    result = LoadResult("a", 1, 0.05, settled_after=0.01)
    load_test._load(result, 5, [("text", 0)], [b""])
    assert result.first_sound_ms == {} and result.failed == result.requests > 0


def test_quantiles_are_of_all_answers(monkeypatch):
    monkeypatch.setattr(load_test, "LOOK", 0.01)
    monkeypatch.setattr(load_test, "_metrics", lambda port: {"memory": 1.0})
    took = iter([0.001 * n for n in range(1, 22)])
    end = iter([0.0, *[0.0] * 21, 1e9, 1e9])
    monkeypatch.setattr(load_test.time, "monotonic", lambda: next(end))
    monkeypatch.setattr(load_test, "_ask", lambda *request: (b"x", next(took)))
    result = LoadResult("a", 1, 5.0, settled_after=0.0)
    load_test._load(result, 5, [("text", 0)], [b"x"])
    assert result.requests == 21 and result.unequal == 0
    assert result.first_sound_ms == pytest.approx({"median": 11.0, "95 %": 20.0, "most": 21.0})
