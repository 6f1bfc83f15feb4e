"""``/v1/audio/stream``: a WebSocket that takes pieces of text and gives audio meanwhile.

Messages are JSON; audio is binary, 16-bit little-endian samples of one channel. The page
core/serve/README.md describes them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from wishbone.core.serve.arriving_pieces import ArrivingPieces
from wishbone.core.serve.encoding import Encoder
from wishbone.core.serve.refusal import Refusal, draining
from wishbone.core.serve.spoken_job import Job, Order
from wishbone.core.serve.web.failures import of_validation
from wishbone.core.serve.web.log_lines import REQUEST, write
from wishbone.core.serve.web.request_guard import TOKEN_PROTOCOL
from wishbone.core.serve.web.service import Choice, Service
from wishbone.core.serve.web.speech_routes import CLIENT, COOKIE, MOST_SEED


class Start(BaseModel):
    """The first message of an utterance of any length: the fields of ``/v1/audio/speech``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["start"]
    model: str
    voice: str = "default"
    instructions: str = ""
    seed: int = Field(0, ge=0, le=MOST_SEED)


class Piece(BaseModel):
    """A piece of text, with the blanks that belong to it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str = Field(min_length=1)


class Control(BaseModel):
    """``flush`` speaks what came, ``end`` says that nothing follows, ``cancel`` stops at once."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["flush", "end", "cancel"]


MESSAGE: TypeAdapter[Start | Piece | Control] = TypeAdapter(
    Annotated[Start | Piece | Control, Field(discriminator="type")]
)


def live_routes(service: Service) -> APIRouter:
    """Make the route."""
    routes = APIRouter()

    @routes.websocket("/v1/audio/stream")
    async def stream(socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols") or []
        # one of those that were offered must be chosen; the token itself is not sent back
        plain = [name for name in offered if not name.startswith(TOKEN_PROTOCOL)]
        await socket.accept(subprotocol=plain[0] if plain else None)
        await Conversation(service, socket).run()

    return routes


class _Speaking:
    """One utterance on its way: its text, its job, and the task that sends its audio."""

    def __init__(self, choice: Choice, pieces: ArrivingPieces, job: Job) -> None:
        self.choice, self.pieces, self.job = choice, pieces, job
        self.task: asyncio.Task[None] | None = None


class Conversation:
    """One connection, on which utterances follow each other."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._speaking: _Speaking | None = None

    async def run(self) -> None:
        """Answer messages until the client goes away, or says nothing for too long."""
        write("WebSocket opened")
        try:
            while True:
                message = await self._next()
                if message is None:
                    return
                try:
                    await self._take(message)
                except Refusal as refusal:
                    await self._send({"type": "error", **refusal.body})
        except (WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
            return
        finally:
            await self._stop()
            with suppress(RuntimeError, OSError, TimeoutError, WebSocketDisconnect):
                code = 1001 if self._service.is_draining else 1000
                await self._in_time(self._socket.close(code))
            write("WebSocket closed")

    async def _next(self) -> str | bytes | None:
        """Receive a message; None where the connection ends."""
        receiving = asyncio.ensure_future(self._socket.receive())
        try:
            async with asyncio.timeout(self._service.limits.timeout):
                # a connection on which nothing is spoken ends with the server
                while not receiving.done():
                    await asyncio.wait({receiving}, timeout=1)
                    if self._service.is_draining and not self._is_speaking:
                        return None
        finally:
            receiving.cancel()
        message = receiving.result()
        if message["type"] == "websocket.disconnect":
            return None
        text = message.get("text")
        return message.get("bytes") if text is None else text

    @property
    def _is_speaking(self) -> bool:
        speaking = self._speaking
        return speaking is not None and speaking.task is not None and not speaking.task.done()

    async def _take(self, raw: str | bytes) -> None:
        """Follow a message. Raises ``Refusal``."""
        try:
            message = MESSAGE.validate_json(raw)
        except ValidationError as error:
            raise of_validation(error.errors()) from error
        if isinstance(message, Start):
            await self._start(message)
            return
        speaking = self._speaking
        if speaking is None or not self._is_speaking:
            if isinstance(message, Control) and message.type == "cancel":
                return  # it was over before the client knew
            raise Refusal(409, "Nothing was started. Send start first.", "type", "not_started")
        if isinstance(message, Piece):
            self._service.check_text(message.text, "text", speaking.pieces.size)
            speaking.pieces.add(message.text)
        elif message.type == "flush":
            self._service.check_text("", "text", speaking.pieces.size + 1)
            speaking.pieces.flush()
        elif message.type == "end":
            speaking.pieces.end()
        else:
            await self._stop()
            await self._send({"type": "cancelled"})

    async def _start(self, start: Start) -> None:
        if self._service.is_draining:
            raise draining()
        if self._is_speaking:
            message = "An utterance is being spoken. Send end or cancel first."
            raise Refusal(409, message, "type", "already_started")
        self._service.check_text(start.instructions, "instructions")
        choice = self._service.choose(start.model, self._client())
        voice = await asyncio.to_thread(self._service.voice, start.voice)
        await asyncio.to_thread(choice.arm.voice, voice, start.instructions)
        pieces = ArrivingPieces()
        order = Order(pieces, voice, start.instructions, start.seed)
        job = self._service.job(choice, order, Encoder(choice.arm.sample_rate))
        speaking = self._speaking = _Speaking(choice, pieces, job)
        await self._send({
            "type": "started",
            "request_id": REQUEST.get(),
            "arm": choice.arm.name,
            "sample_rate": choice.arm.sample_rate,
        })  # fmt: skip
        speaking.task = asyncio.ensure_future(self._speak(speaking))

    async def _speak(self, speaking: _Speaking) -> None:
        """Send the audio of an utterance, and how it ended."""
        course = speaking.job.course
        try:
            stream = self._service.speak(speaking.choice, speaking.job)
            async with aclosing(stream):
                async for data in stream:
                    await self._in_time(self._socket.send_bytes(data))
            seconds = course.samples / speaking.choice.arm.sample_rate
            await self._send({"type": "done", "seconds": round(seconds, 3)})
        except Refusal as refusal:
            await self._send({"type": "error", **refusal.body})
        except (RuntimeError, OSError, TimeoutError, WebSocketDisconnect):
            return
        finally:
            speaking.pieces.cancel()

    async def _stop(self) -> None:
        """Cancel what is spoken, if anything is, and wait until its slot is on its way back."""
        speaking = self._speaking
        self._speaking = None
        if speaking is None or speaking.task is None:
            return
        speaking.job.cancel()
        speaking.pieces.cancel()
        speaking.task.cancel()
        with suppress(asyncio.CancelledError):
            await speaking.task

    async def _send(self, message: dict[str, Any]) -> None:
        await self._in_time(self._socket.send_text(json.dumps(message)))

    async def _in_time(self, sending: Awaitable[None]) -> None:
        """Send, but wait no longer than a client may take nothing. Raises ``TimeoutError``."""
        # not asyncio.wait_for, which before Python 3.12 may swallow a cancellation
        async with asyncio.timeout(self._service.limits.stall):
            await sending

    def _client(self) -> str:
        """A word that tells this client from others, for routes."""
        socket = self._socket
        named = socket.headers.get(CLIENT) or socket.cookies.get(COOKIE)
        host = socket.client.host if socket.client else ""
        return named or f"{host} {socket.headers.get('user-agent', '')}"
