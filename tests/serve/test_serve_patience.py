"""Connections that are left in the end, by a clock of our own, and lines of the log."""

import json
import logging
from types import SimpleNamespace

import pytest

for package in ("fastapi", "uvicorn", "prometheus_client", "websockets"):
    pytest.importorskip(package, reason="the extra 'serve' is not installed")

from wishbone.core.serve.web import log_lines  # noqa: E402
from wishbone.core.serve.web import patient_protocols as patient  # noqa: E402


class Clock:
    """An event loop's clock: who calls later is called when the time has come."""

    def __init__(self):
        self.now, self.later = 5.0, []

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        self.later.append((self.now + seconds, call))

    def pass_until(self, end):
        while self.later and min(self.later)[0] <= end:
            when, call = min(self.later, key=lambda each: each[0])
            self.later.remove((when, call))
            self.now = when
            call()
        self.now = end


class Transport:
    """A connection that tells whether it was aborted, and when."""

    def __init__(self, clock):
        self.clock, self.protocol, self.closing, self.aborted = clock, None, False, None

    def get_protocol(self):
        return self.protocol

    def is_closing(self):
        return self.closing

    def abort(self):
        self.aborted = self.aborted or self.clock.now


def connection(kind, monkeypatch):
    """A connection of that protocol, whose library does nothing by itself."""
    clock = Clock()
    transport = Transport(clock)
    base = kind.__mro__[1]
    monkeypatch.setattr(base, "connection_made", lambda self, transport: None)
    if hasattr(base, "on_response_complete"):
        monkeypatch.setattr(base, "on_response_complete", lambda self: None)
    protocol = kind.__new__(kind)
    protocol.loop, protocol.transport, protocol.cycle = clock, transport, None
    protocol.connections, transport.protocol = {protocol}, protocol
    protocol.connection_made(transport)
    return protocol, clock, transport


def test_a_head_has_ten_seconds(monkeypatch):
    protocol, clock, transport = connection(patient.PatientHttp, monkeypatch)
    clock.pass_until(15.0)
    assert transport.aborted is None  # exactly ten seconds are not too long
    clock.pass_until(60.0)
    assert 15.0 < transport.aborted <= 17.5 and not clock.later


def test_a_request_that_runs_is_left_alone_and_the_next_head_has_its_own_time(monkeypatch):
    protocol, clock, transport = connection(patient.PatientHttp, monkeypatch)
    protocol.cycle = SimpleNamespace(response_complete=False)
    clock.pass_until(100.0)
    assert transport.aborted is None
    protocol.cycle.response_complete = True
    protocol.on_response_complete()
    clock.pass_until(109.0)
    assert transport.aborted is None
    clock.pass_until(200.0)
    assert 110.0 < transport.aborted <= 112.5


def test_a_shorter_patience_is_used(monkeypatch):
    kind = type("Http", (patient.PatientHttp,), {"head_time": 2.0})
    monkeypatch.setattr(patient.PatientHttp.__mro__[1], "connection_made", lambda *given: None)
    protocol = kind.__new__(kind)
    clock = Clock()
    protocol.loop, protocol.transport, protocol.cycle = clock, Transport(clock), None
    protocol.connections, protocol.transport.protocol = {protocol}, protocol
    protocol.connection_made(protocol.transport)
    assert [round(when - clock.now, 6) for when, _ in clock.later] == [0.5]
    clock.pass_until(20.0)
    assert 7.0 < protocol.transport.aborted <= 7.5


def test_a_farewell_that_nobody_takes_is_cut_at_the_next_look(monkeypatch):
    protocol, clock, transport = connection(patient.PatientHttp, monkeypatch)
    protocol.cycle = SimpleNamespace(response_complete=False)
    clock.pass_until(6.0)
    transport.closing = True
    clock.pass_until(9.0)
    assert transport.aborted is None
    clock.pass_until(30.0)
    assert transport.aborted == 10.0


def test_a_connection_that_became_a_websocket_or_ended_is_not_looked_at(monkeypatch):
    protocol, clock, transport = connection(patient.PatientHttp, monkeypatch)
    transport.protocol = "another"
    clock.pass_until(60.0)
    assert transport.aborted is None and not clock.later
    protocol, clock, transport = connection(patient.PatientHttp, monkeypatch)
    protocol.connections.clear()
    clock.pass_until(7.5)
    assert not clock.later


def test_a_websocket_that_closes_has_its_time_and_no_more(monkeypatch):
    protocol, clock, transport = connection(patient.PatientWebSocket, monkeypatch)
    clock.pass_until(100.0)
    assert transport.aborted is None  # an open one may last
    transport.closing = True
    clock.pass_until(109.9)
    assert transport.aborted is None
    clock.pass_until(200.0)
    assert 110.0 <= transport.aborted <= 115.0 and not clock.later


def test_a_websocket_that_opens_again_has_all_of_its_time_again(monkeypatch):
    protocol, clock, transport = connection(patient.PatientWebSocket, monkeypatch)
    for _ in range(3):
        transport.closing = True
        clock.pass_until(clock.now + 8.0)
        transport.closing = False
        clock.pass_until(clock.now + 3.0)
    assert transport.aborted is None
    protocol.connections.clear()
    clock.pass_until(clock.now + 3.0)
    assert not clock.later


def line(as_json, message="hello", exc_info=None, **facts):
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, message, (), exc_info)
    record.created, record.facts = 86_399.12345, facts
    return log_lines._Lines(as_json).format(record)


def test_a_line_for_programs():
    token = log_lines.REQUEST.set("abc")
    try:
        assert json.loads(line(True, "it\nis", status=200, where=SimpleNamespace)) == {
            "time": 86_399.123, "level": "warning", "request": "abc", "message": "it\nis",
            "status": 200, "where": str(SimpleNamespace),
        }  # fmt: skip
    finally:
        log_lines.REQUEST.reset(token)


def test_a_line_for_people_is_one_line_without_colours(monkeypatch):
    monkeypatch.setattr(log_lines.time, "localtime", log_lines.time.gmtime)
    assert line(False, "GET /\n\x1b[31mx", status=200, path="a b") == (
        '23:59:59 - GET /??[31mx status=200 path="a b"'
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_a_trace_stands_behind_its_line(as_json):
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError as error:
        text = line(as_json, exc_info=(type(error), error, error.__traceback__))
    if as_json:
        assert json.loads(text)["trace"].endswith("ZeroDivisionError: why")
    else:
        first, *rest = text.splitlines()
        assert first.endswith("- hello") and rest[-1] == "ZeroDivisionError: why"


def test_a_record_of_somebody_else_has_no_facts():
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "hello %s", ("you",), None)
    assert log_lines._Lines(False).format(record).endswith("- hello you")


def test_the_log_is_ours_alone(monkeypatch):
    loggers = [logging.getLogger(name) for name in ("wishbone.serve", "uvicorn", "uvicorn.error")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    try:
        log_lines.set_up_logging(as_json=False)
        own, library, errors = loggers
        assert own.handlers == library.handlers and len(own.handlers) == 1
        assert errors.handlers == []
        assert [each.propagate for each in loggers] == [False, False, True]
        assert [each.level for each in loggers] == [logging.INFO, logging.WARNING, logging.WARNING]
    finally:
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(level)
