"""The guard in front of all routes: who may ask, how much they may send, and a line in the log.

A browser that was lured to another site must not reach a server on this machine, so a foreign
``Host`` (DNS rebinding) and a foreign ``Origin`` are refused.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wishbone.core.serve.refusal import Refusal, draining
from wishbone.core.serve.settings import Settings
from wishbone.core.serve.web.log_lines import LOGGER, REQUEST, warn, write
from wishbone.core.serve.web.service import Service

LARGEST_BODY = 262_144
"""Bytes of a body that holds no recording; a text of 4096 characters needs 50 000 at most."""
MULTIPART = 65_536
"""Bytes of a form beside its recording."""
SLOWEST = 1000
"""Bytes per second that a body must come with, once ``stall`` seconds are over."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health", "/ready")
"""Paths that need no token, beside the studio's files: they tell nothing about anybody."""
ALWAYS = ("/health", "/ready", "/metrics")
"""Paths that answer while the server drains."""
VOICES = "/v1/audio/voices"
POLICY = (
    "default-src 'self'; media-src 'self' blob:; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
}
TOKEN_PROTOCOL = "bearer."
"""Beginning of the WebSocket subprotocol by which a browser sends the token."""


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service, self._settings = app, service, service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, run it, and write its line."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        token = REQUEST.set(secrets.token_hex(8))
        try:
            if scope["type"] == "websocket":
                await self._websocket(scope, receive, send)
            else:
                await self._http(scope, receive, send)
        finally:
            REQUEST.reset(token)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.monotonic()
        answer = _Answer(send, self._settings.limits.stall)
        try:
            refusal = self._refusal(scope)
            if refusal is None:
                body = _Body(receive, self._most(scope), self._settings.limits.stall)
                refusal = body.too_long(Headers(scope=scope))
                if refusal is None:
                    await self._app(scope, body, answer)
            if refusal is not None:
                await answer.refuse(refusal)
        except _Gone:
            warn("a client took nothing any more")
        except Exception as error:
            # an answer that has begun is left incomplete: the web server then ends the connection,
            # so that nobody takes it for whole
            LOGGER.error("an error that nobody foresaw", exc_info=error)
            if answer.status == 0:
                await answer.refuse(Refusal(500, "Something went wrong.", code="internal"))
        finally:
            path = str(scope["path"])[:200]
            took = round(1000 * (time.monotonic() - begin))
            write(f"{scope['method']} {path}", {"status": answer.status, "ms": took})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            # before it is accepted, closing answers the handshake with 403
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:120]})
            write(f"WebSocket {str(scope['path'])[:200]}", {"status": refusal.status})
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return the reason not to answer, or None."""
        headers, path = Headers(scope=scope), scope["path"]
        refusal = check_origin(headers, self._settings)
        if refusal:
            return refusal
        if self._settings.token and not (path in OPEN_PATHS or _is_studio(path)):
            if not has_token(headers, self._settings.token):
                message = "This server needs its token: Authorization: Bearer TOKEN."
                challenge = {"WWW-Authenticate": "Bearer"}
                return Refusal(401, message, code="invalid_api_key", headers=challenge)
        if self._service.is_draining and path not in ALWAYS:
            return draining()
        return None

    def _most(self, scope: Scope) -> int:
        upload = scope["path"].rstrip("/") == VOICES and scope["method"] == "POST"
        return self._settings.limits.upload + MULTIPART if upload else LARGEST_BODY


def has_token(headers: Headers, token: str) -> bool:
    """True where a request has the token, in ``Authorization`` or a WebSocket's subprotocol."""
    scheme, _, word = headers.get("authorization", "").partition(" ")
    words = [word.strip()] if scheme.lower() == "bearer" else []
    offered = headers.get("sec-websocket-protocol", "").split(",")
    words += [each.strip().removeprefix(TOKEN_PROTOCOL) for each in offered]
    return any(hmac.compare_digest(each.encode(), token.encode()) for each in words)


def check_origin(headers: Headers, settings: Settings) -> Refusal | None:
    """Refuse a page of another site, and a name of this server that it does not have."""
    host = headers.get("host", "")
    names = {*LOCAL_NAMES, *settings.hosts, settings.host}
    if settings.is_local and _name_of(host) not in names:
        message = f"This server is not called '{host[:64]}'. Use 127.0.0.1, or hosts: in its file."
        return Refusal(421, message, code="wrong_host")
    origin = headers.get("origin")
    if origin is not None and urlsplit_host(origin) != host.lower():
        if _name_of(urlsplit_host(origin)) not in settings.hosts:
            message = "Pages of other sites may not use this server."
            return Refusal(403, message, code="foreign_origin")
    return None


def urlsplit_host(origin: str) -> str:
    """Host and port of an origin; empty for "null" and for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_studio(path: str) -> bool:
    return path == "/" or (path.count("/") == 1 and path.endswith((".html", ".js", ".css", ".svg")))


def _name_of(host: str) -> str:
    """Name of ``name:port`` and ``[address]:port``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


class _Gone(Exception):
    """Raised where a client takes or sends nothing any more."""


class _Body:
    """A request's body: no more than it may be, and no longer waited for than it may take."""

    def __init__(self, receive: Receive, most: int, stall: float) -> None:
        self._receive, self._most, self._stall = receive, most, stall
        self._bytes = 0
        self._complete = False
        self._begin = time.monotonic()

    def too_long(self, headers: Headers) -> Refusal | None:
        """Refuse by the length that the client says, before anything is read."""
        length = headers.get("content-length", "0")
        return self._refusal() if not length.isdigit() or int(length) > self._most else None

    async def __call__(self) -> Message:
        """Receive the next message. Raises ``Refusal``."""
        if self._complete:
            return await self._receive()
        try:
            # a byte now and then would hold the connection for as long as somebody likes
            left = self._begin + self._stall + self._bytes / SLOWEST - time.monotonic()
            # not asyncio.wait_for, which before Python 3.12 may swallow a cancellation
            async with asyncio.timeout(min(self._stall, left)):
                message = await self._receive()
        except TimeoutError:
            message = f"The body came too slowly: nothing for {self._stall:g} s, or not"
            message += f" {SLOWEST} bytes a second after that."
            raise Refusal(408, message, code="timeout") from None
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._most:
            raise self._refusal()
        return message

    def _refusal(self) -> Refusal:
        return Refusal(413, f"The body is longer than {self._most} bytes.", code="too_long")


class _Answer:
    """The way to the client: headers for all answers, and a bound on its patience."""

    def __init__(self, send: Send, stall: float) -> None:
        self._send, self._stall = send, stall
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """Send a message. Raises ``_Gone`` where the client takes nothing for too long."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {**HEADERS, "X-Request-Id": REQUEST.get()}
            headers = list(message.get("headers", []))
            names = {bytes(name).lower() for name, _ in headers}
            headers += _raw(own.items(), names)
            message = {**message, "headers": headers}
        try:
            # not asyncio.wait_for, as above: a client that left would be spoken to until the end
            async with asyncio.timeout(self._stall):
                await self._send(message)
        except TimeoutError:
            raise _Gone from None

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, and take no more requests of this connection."""
        body = json.dumps(refusal.body).encode()
        headers: dict[str, Any] = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **refusal.headers,
        }
        await self({
            "type": "http.response.start",
            "status": refusal.status,
            "headers": _raw(headers.items(), set()),
        })  # fmt: skip
        await self({"type": "http.response.body", "body": body, "more_body": False})


def _raw(headers: Iterable[tuple[str, str]], names: set[bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode(), value.encode("latin-1", "replace"))
        for name, value in headers
        if name.lower().encode() not in names
    ]
