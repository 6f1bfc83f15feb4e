"""A server around the tiny system, without a socket."""

import asyncio
import json
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(package, reason="the extra 'serve' or 'dev' is not installed")

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from starlette.testclient import TestClient  # noqa: E402
from tiny_system import tiny_system  # noqa: E402

from wishbone.core.serve.encoding import as_pcm  # noqa: E402
from wishbone.core.serve.serving_arm import ServingArm  # noqa: E402
from wishbone.core.serve.settings import Limits, Settings  # noqa: E402
from wishbone.core.serve.web.app import create_app  # noqa: E402
from wishbone.core.serve.web.service import Service  # noqa: E402
from wishbone.core.speak import text_to_speech  # noqa: E402

URL = "http://127.0.0.1:8880"
TEXT = "We speak of one thing. Then of another thing altogether!"


def arm(name="tiny", seed=0, slots=2, queue=2, **limits):
    system = tiny_system(seed)
    system.model.requires_grad_(False)
    return ServingArm.start(name, system, Limits(slots=slots, queue=queue, **limits))


def make_service(folder, arms=None, settings=None, **limits):
    arms = arms or [arm(slots=limits.get("slots", 2), queue=limits.get("queue", 2))]
    limits = Limits(**{"slots": 2, "queue": 2, **limits})
    systems = {each.name: each.name for each in arms}
    settings = Settings(systems, folder=folder, limits=limits, **(settings or {}))
    return Service(settings, {each.name: each for each in arms})


def client_of(service, **options):
    return TestClient(create_app(service), base_url=URL, **options)


def offline(service, text=TEXT, seed=0, name="tiny", voice=None):
    """The samples of ``text`` spoken without any server, as 16-bit bytes."""
    return as_pcm(
        text_to_speech.say(service.arms[name].system, text, voice, seed).samples
    ).tobytes()


class Brake:
    """Holds the steps of a system's batch until somebody lets them go on."""

    def __init__(self, server):
        self.steps = threading.Semaphore(0)
        self._step = server.pool.step
        server.pool.step = self._braked

    def _braked(self, slots, x):
        assert self.steps.acquire(timeout=30)
        return self._step(slots, x)

    def release(self, steps=1_000_000):
        self.steps.release(steps)

    def release_one(self):
        """Allow a step where none is allowed yet: a slow event loop lets no one run ahead."""
        if not self.steps._value:
            self.steps.release()


def built(word):
    """The same word as another object: a web server's words need not be those of our source."""
    return "".join(list(word))


class Caller:
    """One request to the application as a web server makes it, whose client may go away."""

    def __init__(self, app, body, path="/v1/audio/speech", method="POST", headers=()):
        self.app, self.body, self.path, self.method = app, body, path, method
        self.headers = [(b"host", b"127.0.0.1:8880"), (b"content-type", b"application/json")]
        self.headers += list(headers)
        self.gone = asyncio.Event()
        self.begun = asyncio.Event()
        self.status, self.answer_headers, self.parts = 0, {}, []

    async def run(self):
        scope = {
            "type": built("http"), "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1", "method": built(self.method), "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(), "query_string": b"", "root_path": "",
            "headers": self.headers, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8880),
        }  # fmt: skip
        # a body of None never comes
        sent = [{"type": built("http.request"), "body": self.body, "more_body": False}]
        sent = sent if self.body is not None else []

        async def receive():
            if sent:
                return sent.pop()
            await self.gone.wait()
            return {"type": built("http.disconnect")}

        async def send(message):
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.answer_headers = dict(message["headers"])
                self.begun.set()
            elif message.get("body"):
                self.parts.append(message["body"])

        await self.app(scope, receive, send)
        return self


def speech(text=TEXT, **fields):
    body = {"model": "tiny", "input": text, "response_format": "pcm", **fields}
    return json.dumps(body).encode()


async def until(condition, seconds=20.0):
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@contextmanager
def closing(service):
    try:
        yield service
    finally:
        service.close()
