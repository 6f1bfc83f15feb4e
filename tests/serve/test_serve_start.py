"""How the process begins and ends, without another process: address, log, patience, exit code."""

import asyncio
import json
import logging
import signal
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
import serving_toys as toys

pytest.importorskip("websockets", reason="the extra 'serve' is not installed")

from wishbone.core.contract.errors import UsageError  # noqa: E402
from wishbone.core.serve.web import log_lines, process  # noqa: E402


@pytest.fixture
def service(tmp_path):
    with toys.closing(toys.make_service(tmp_path, stall=8.0)) as service:
        yield service


@pytest.fixture
def loggers():
    """The loggers of the server and of its library, as before afterwards."""
    loggers = [logging.getLogger(name) for name in (log_lines.LOGGER.name, "uvicorn")]
    loggers.append(logging.getLogger("uvicorn.error"))
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield loggers
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def test_an_address_that_cannot_be_had_is_a_mistake_with_a_way_out(service):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = replace(service.settings, port=taken.getsockname()[1])
        with pytest.raises(UsageError, match="cannot be had") as caught:
            process.bind(settings)
    assert str(settings.port) in caught.value.where and "--port" in caught.value.do


def test_a_server_that_was_told_to_stop_ends_with_0(service, monkeypatch, loggers, capsys):
    begun = []
    monkeypatch.setattr(process, "load_arm", lambda name, *arguments: service.arms[name])
    monkeypatch.setattr(process.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(
        process.DrainingServer, "run", lambda self, sockets: begun.append(sockets[0].fileno())
    )
    service.arms["tiny"].system.notes.append("a part is slow here")
    assert process.run(replace(service.settings, port=0)) == 0
    assert len(begun) == 1 and begun[0] >= 0
    lines = [line.split(" - ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines[0].startswith("tiny is ready") and lines[1] == "a part is slow here"
    assert lines[-1] == "stopped"


def test_pages_for_people_are_not_in_the_document_for_programs(service):
    with toys.client_of(service) as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/audio/speech" in paths and not {"/", "/{name}"} & paths.keys()


def test_the_address_is_told_as_a_browser_takes_it(service, monkeypatch, loggers, capsys):
    async def nothing(self, sockets=None):
        return

    monkeypatch.setattr(process.uvicorn.Server, "startup", nothing)
    log_lines.set_up_logging(as_json=True)
    addresses = [("127.0.0.1", 8880), ("::1", 8881, 0, 0)]
    sockets = [SimpleNamespace(getsockname=lambda each=each: each) for each in addresses]
    server = process.DrainingServer(service)
    asyncio.run(server.startup(sockets))
    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["ready at http://127.0.0.1:8880", "ready at http://[::1]:8881"]


def test_a_silent_websocket_is_left_when_the_patience_is_over(service):
    """A ping after half of it, and the other half to answer."""
    config = process.DrainingServer(service).config
    assert config.ws_ping_interval == config.ws_ping_timeout == service.limits.stall / 2


def test_the_web_servers_own_lines_are_lines_of_the_log(loggers, capsys):
    log_lines.set_up_logging(as_json=True)
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn").warning("Something else.")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("warning", "Invalid HTTP request received."), ("warning", "Something else."),
    ]  # fmt: skip


def test_an_error_that_nobody_foresaw_has_its_trace_in_the_log(loggers, capsys):
    log_lines.set_up_logging(as_json=True)
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError as error:
        log_lines.LOGGER.error("it failed", exc_info=error)
    log_lines.write("it goes on", {"status": 200})
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert first["level"] == "error" and first["trace"].endswith("ZeroDivisionError: why")
    assert second["status"] == 200 and "trace" not in second


def test_a_first_signal_drains_and_tells_the_time_and_a_second_ends_at_once(
    service, loggers, capsys
):
    async def scenario(server):
        server.handle_exit(signal.SIGTERM, None)
        await asyncio.sleep(0)
        assert service.is_draining and not server.force_exit
        await asyncio.wait_for(server._waiting, 20)
        assert server.should_exit and not server.force_exit
        server.handle_exit(signal.SIGTERM, None)
        assert server.force_exit

    log_lines.set_up_logging(as_json=True)
    asyncio.run(scenario(process.DrainingServer(service)))
    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    # 30 of the limits, and 3 for the last bytes
    assert lines == ["SIGTERM: at most 33 s until the end"]


def test_threads_of_each_stream_are_its_share_of_the_cores(service, monkeypatch, loggers, capsys):
    threads = []
    monkeypatch.setattr(process, "load_arm", lambda name, *arguments: service.arms[name])
    monkeypatch.setattr(process.torch, "set_num_threads", threads.append)
    monkeypatch.setattr(process.DrainingServer, "run", lambda self, sockets: None)
    clock = iter([100.0, 101.23456] * 9)
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for cores, slots in ((16, 5), (16, 4), (8, 16), (None, 1), (1, 3)):
        monkeypatch.setattr(process.os, "cpu_count", lambda cores=cores: cores)
        limits = replace(service.limits, slots=slots)
        process.run(replace(service.settings, port=0, limits=limits), as_json=True)
    assert threads == [3, 4, 1, 1, 1]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0]["message"] == "tiny is ready" and lines[0]["seconds"] == 1.23
    assert lines[0]["engine"] == service.arms["tiny"].system.model.engine
    assert lines[1]["message"].startswith("limits: slots 5, queue 2, characters 4096")


def test_an_arm_is_loaded_as_the_settings_say(service, monkeypatch, loggers, capsys):
    asked = []

    def load(name, *arguments):
        asked.append((name, *arguments))
        return service.arms[name]

    monkeypatch.setattr(process, "load_arm", load)
    monkeypatch.setattr(process.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(process.DrainingServer, "run", lambda self, sockets: None)
    process.run(replace(service.settings, port=0, engine="eager", device="cpu:0"))
    assert asked == [("tiny", "tiny", service.limits, "eager", "cpu:0")]
    # its threads have ended
    with pytest.raises(RuntimeError):
        service.arms["tiny"].threads.submit(int)


def test_a_name_that_is_none_is_a_mistake(service):
    with pytest.raises(UsageError, match="cannot be had"):
        process.bind(replace(service.settings, host="nobody.invalid", port=0))


def test_an_address_can_be_had_again_at_once(service):
    with process.bind(replace(service.settings, port=0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert listener.type == socket.SOCK_STREAM


@pytest.mark.parametrize(("stall", "head"), [(8.0, 8.0), (30.0, 10.0), (10.5, 10.0)])
def test_the_web_server_has_the_limits_of_the_settings(tmp_path, stall, head):
    limits = {"stall": stall, "connections": 7, "characters": 100}
    with toys.closing(toys.make_service(tmp_path, **limits)) as service:
        config = process.DrainingServer(service).config
    assert config.http.head_time == config.ws.head_time == head
    # six bytes of an escape for each half of a character, and room for the rest of the message
    assert config.ws_max_size == 1600 and config.limit_concurrency == 7
    assert config.timeout_graceful_shutdown == 3
    # who asks is told by the connection: nobody can write an address into a header
    assert not config.proxy_headers and not config.access_log and not config.server_header
    assert config.lifespan == "off" and config.ws_max_queue == 8


@pytest.mark.parametrize("seconds", [0.2, 20.0])
def test_who_still_runs_when_the_time_is_over_is_cut_off(service, loggers, capsys, seconds):
    async def scenario(server):
        gate = service.arms["tiny"].gate
        gate.used = 1
        waiting = asyncio.ensure_future(server._exit_when_idle(seconds))
        await asyncio.sleep(0.05)
        assert not server.should_exit
        if seconds > 1:
            gate.used = 0
        await asyncio.wait_for(waiting, 10)
        assert server.should_exit and not server.force_exit
        gate.used = 0

    log_lines.set_up_logging(as_json=True)
    asyncio.run(scenario(process.DrainingServer(service)))
    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    cut = ["requests were still running; they are cut off"]
    assert lines == (cut if seconds < 1 else [])
