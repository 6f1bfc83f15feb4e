"""The process: a socket, the systems, the web server, and the way it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from types import FrameType

import torch
import uvicorn

from wishbone.core.contract.errors import UsageError
from wishbone.core.serve.serving_arm import load_arm
from wishbone.core.serve.settings import Settings
from wishbone.core.serve.web.app import create_app
from wishbone.core.serve.web.log_lines import set_up_logging, warn, write
from wishbone.core.serve.web.patient_protocols import HEAD_TIME, PatientHttp, PatientWebSocket
from wishbone.core.serve.web.service import Service

LAST_BYTES = 3.0
"""Seconds that connections have to take their last bytes once nothing runs any more."""
TICK = 0.05


def run(settings: Settings, as_json: bool = False) -> int:
    """Load everything, say so, serve until a signal comes, and return the exit code."""
    set_up_logging(as_json)
    # before minutes of loading: nobody wants to learn then that the port is taken
    with bind(settings) as listener:
        limits = settings.limits
        # streams are what runs in parallel: threads inside each would only wait for one another
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // limits.slots))
        arms = {}
        for name, source in settings.systems.items():
            begin = time.monotonic()
            arm = load_arm(name, source, limits, settings.engine, settings.device)
            arms[name] = arm
            write(
                f"{name} is ready",
                {
                    "engine": arm.system.model.engine,
                    "seconds": round(time.monotonic() - begin, 2),
                },
            )
            for note in arm.system.notes:
                warn(note)
        service = Service(settings, arms)
        write(f"limits: {', '.join(limits.lines())}")
        DrainingServer(service).run(sockets=[listener])
        service.close()
    write("stopped")
    return 0


def bind(settings: Settings) -> socket.socket:
    """Bind the address. Raises ``UsageError`` where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(
            f"The address cannot be had: {error}.",
            f"{settings.host}:{settings.port}",
            "Choose another --port, or stop the program that has it.",
        ) from error
    return listener


class DrainingServer(uvicorn.Server):
    """A web server that lets running requests finish on SIGTERM, and refuses all others."""

    def __init__(self, service: Service) -> None:
        head_time = min(HEAD_TIME, service.limits.stall)
        config = uvicorn.Config(
            create_app(service),
            http=type("Http", (PatientHttp,), {"head_time": head_time}),
            ws=type("WebSocket", (PatientWebSocket,), {"head_time": head_time}),
            # a client that answers no ping is gone, or in the middle of a frame that never ends
            ws_ping_interval=service.limits.stall / 2,
            ws_ping_timeout=service.limits.stall / 2,
            ws_max_size=service.limits.characters * 16,
            ws_max_queue=8,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=service.limits.connections,
            timeout_graceful_shutdown=round(LAST_BYTES),
        )
        super().__init__(config)
        self._service = service
        self._waiting: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            write(f"ready at http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; stop at once at the second."""
        if self._service.is_draining:
            self.should_exit = self.force_exit = True
            return
        # a signal's handler runs in the event loop's thread, between two of its steps
        asyncio.get_running_loop().call_soon_threadsafe(self._drain, sig)

    def _drain(self, sig: int) -> None:
        seconds = self._service.limits.drain
        write(f"{signal.Signals(sig).name}: at most {seconds + LAST_BYTES:g} s until the end")
        self._service.drain()
        self._waiting = asyncio.ensure_future(self._exit_when_idle(seconds))

    async def _exit_when_idle(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._service.is_idle and time.monotonic() < end:
            await asyncio.sleep(TICK)
        if not self._service.is_idle:
            warn("requests were still running; they are cut off")
        self.should_exit = True
