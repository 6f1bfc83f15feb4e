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
