"""``/v1/models`` and ``/v1/audio/speech``: OpenAI's speech interface."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message, Receive, Scope, Send

from wishbone.core.serve.encoding import FORMATS, encoder_for
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.settings import Route
from wishbone.core.serve.spoken_job import Job, Order
from wishbone.core.serve.web.log_lines import warn
from wishbone.core.serve.web.service import Choice, Service

CLIENT = "X-Wishbone-Client"
"""Header by which a client names itself, to get the same arm of a route each time."""
COOKIE = "wishbone_client"
YEAR = 365 * 24 * 3600
MOST_SEED = 2**63 - 1
EVENTS = "text/event-stream"
SPEECH: dict[str, Any] = {
    "description": "the speech, or events with it",
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in [*(form.media_type for form in FORMATS.values()), EVENTS]
    },
}
"""What the OpenAPI document says of an answer that is spoken."""
STARTED = int(time.time())
Result = TypeVar("Result")


class VoiceId(BaseModel):
    """A voice as an object, which OpenAI's client may send."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


class SpeechRequest(BaseModel):
    """The body of ``POST /v1/audio/speech``; a field beyond these is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str = Field(description="name of a system or a route: GET /v1/models lists them")
    input: str = Field(description="the text to speak", min_length=1)
    voice: str | VoiceId = Field("default", description="a name of GET /v1/audio/voices")
    instructions: str | None = Field(None, description="how to speak, where the system can follow")
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, description="1; nothing else is honoured")
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="bytes of a file, or events; where it is named, flac is streamed, too"
    )
    seed: int = Field(0, ge=0, le=MOST_SEED, description="same seed, same speech")


class Gone(Exception):
    """Raised where the client went away before its answer began."""


def speech_routes(service: Service) -> APIRouter:
    """Make the routes."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list_models(service)}

    @routes.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        for entry in list_models(service):
            if entry["id"] == name:
                return entry
        raise Refusal(404, f"There is no model '{name[:64]}'.", "model", "model_not_found")

    @routes.post("/v1/audio/speech", response_class=Response, responses={200: SPEECH})
    async def speech(body: SpeechRequest, request: Request) -> Response:
        if body.speed != 1:
            message = f"speed {body.speed:g} cannot be honoured: this server speaks at speed 1."
            raise Refusal(400, message, "speed", "unsupported_value")
        service.check_text(body.input)
        service.check_text(body.instructions or "", "instructions")
        route = service.settings.routes.get(body.model)
        client, cookie = client_of(request, route)
        choice = service.choose(body.model, client)
        voice = body.voice if isinstance(body.voice, str) else body.voice.id
        order = Order(
            body.input,
            await asyncio.to_thread(service.voice, voice),
            body.instructions or "",
            body.seed,
        )
        encoder = encoder_for(
            body.response_format,
            choice.arm.sample_rate,
            streaming="stream_format" in body.model_fields_set,
        )
        job = service.job(choice, order, encoder)
        stream = service.speak(choice, job)
        try:
            first = await unless_gone(anext(stream), request.receive)
        except Gone:
            return Response(status_code=499)
        headers = {"X-Sample-Rate": str(choice.arm.sample_rate), **arm_headers(choice)}
        if cookie:
            headers["Set-Cookie"] = (
                f"{COOKIE}={cookie}; Max-Age={YEAR}; Path=/; HttpOnly; SameSite=Strict"
            )
        if body.stream_format == "sse":
            return SpeechResponse(first, stream, EVENTS, headers, Events(job))
        return SpeechResponse(first, stream, FORMATS[body.response_format].media_type, headers)

    return routes


def list_models(service: Service) -> list[dict[str, Any]]:
    """Systems and routes as OpenAI's clients list models."""
    facts = {"object": "model", "created": STARTED, "owned_by": "wishbone"}
    systems = [
        {"id": name, **facts, "sample_rate": arm.sample_rate, "engine": arm.system.model.engine}
        for name, arm in service.arms.items()
    ]
    routes = [
        {
            "id": name,
            **facts,
            "sample_rate": service.arms[next(iter(route.arms))].sample_rate,
            "arms": dict(route.arms),
        }
        for name, route in service.settings.routes.items()
    ]
    return [*systems, *routes]


def arm_headers(choice: Choice) -> dict[str, str]:
    """Headers that name the arm that answers, and its route."""
    headers = {"X-Wishbone-Arm": choice.arm.name}
    return {**headers, "X-Wishbone-Route": choice.route} if choice.route else headers


def client_of(request: Request, route: Route | None) -> tuple[str, str]:
    """Tell clients of a route apart -> a word for this one, and the cookie it gets, or "".

    A client without the header or the cookie that the route goes by is told by its address.
    """
    host = request.client.host if request.client else ""
    address = f"{host} {request.headers.get('user-agent', '')}"
    if route is None or route.sticky == "client":
        return address, ""
    if route.sticky == "header":
        return request.headers.get(CLIENT) or address, ""
    if cookie := request.cookies.get(COOKIE):
        return cookie, ""
    cookie = secrets.token_hex(16)
    return cookie, cookie


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """Run ``work`` to its end, or stop it and raise ``Gone`` where the client goes away before."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Wait until the client goes away; its whole body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Events:
    """Server-sent events around the bytes of an answer."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def delta(self, data: bytes) -> bytes:
        """Make the event of some bytes."""
        return self._event("speech.audio.delta", {"audio": base64.b64encode(data).decode()})

    def done(self) -> bytes:
        """Make the last event: ids of the text went in, frames of codes came out."""
        record = self._job.record
        ids = sum(len(utterance.ids) for utterance in record)
        frames = sum(len(utterance.codes) for utterance in record)
        usage = {"input_tokens": ids, "output_tokens": frames, "total_tokens": ids + frames}
        return self._event("speech.audio.done", {"usage": usage})

    def failed(self, refusal: Refusal) -> bytes:
        """Make the event of an answer that is not whole."""
        return self._event("error", refusal.body)

    @staticmethod
    def _event(kind: str, fields: dict[str, Any]) -> bytes:
        return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


class SpeechResponse(Response):
    """An answer that is sent while it is spoken, and cancelled where the client goes away."""

    def __init__(
        self,
        first: bytes,
        stream: AsyncGenerator[bytes, None],
        media_type: str,
        headers: dict[str, str],
        events: Events | None = None,
    ) -> None:
        super().__init__(None, 200, {**headers, "Cache-Control": "no-store"}, media_type)
        del self.headers["content-length"]
        self._first, self._stream, self._events = first, stream, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. An answer that fails half-way is left incomplete."""
        start: Message = {"type": "http.response.start", "status": self.status_code}
        try:
            await send({**start, "headers": self.raw_headers})
            await unless_gone(self._send(send), receive)
        except Gone:
            return
        finally:
            await self._stream.aclose()

    async def _send(self, send: Send) -> None:
        events = self._events
        try:
            await self._part(send, self._first)
            async for data in self._stream:
                await self._part(send, data)
        except Refusal as refusal:
            warn(f"an answer was broken off: {refusal.message}", {"code": refusal.code})
            if events is None:
                return
            await send(_body(events.failed(refusal), more=True))
        else:
            if events is not None:
                await send(_body(events.done(), more=True))
        await send(_body(b"", more=False))

    async def _part(self, send: Send, data: bytes) -> None:
        await send(_body(self._events.delta(data) if self._events else data, more=True))


def _body(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
