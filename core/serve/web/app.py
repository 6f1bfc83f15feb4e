"""The application: all routes, the guard around them, and the studio's files."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.types import ASGIApp

from wishbone.core.registry.entry_points import own_version
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.web.comparison_routes import comparison_routes
from wishbone.core.serve.web.failures import add_failures, describe_failures
from wishbone.core.serve.web.live_routes import live_routes
from wishbone.core.serve.web.request_guard import Guard
from wishbone.core.serve.web.service import Service
from wishbone.core.serve.web.speech_routes import speech_routes
from wishbone.core.serve.web.voice_routes import voice_routes

STUDIO = Path(__file__).parents[1] / "studio"
"""Folder of the page at ``/``."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Endings of the files that the studio may have -> their media types."""


def create_app(service: Service) -> ASGIApp:
    """Make the application around a service."""
    # the pages that FastAPI makes of the document load scripts from elsewhere
    app = FastAPI(title="wishbone serve", version=own_version(), docs_url=None, redoc_url=None)
    add_failures(app)
    for make in (speech_routes, voice_routes, comparison_routes, live_routes):
        app.include_router(make(service))
    _add_state(app, service)
    _add_studio(app)
    describe_failures(app)
    return Guard(app, service)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": dict[str, str]}})
    async def ready() -> JSONResponse:
        # every system is loaded and warm before the server listens
        status = "draining" if service.is_draining else "ready"
        return JSONResponse({"status": status}, 503 if service.is_draining else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.gauges.text(), media_type="text/plain; version=0.0.4")


def _add_studio(app: FastAPI) -> None:
    files = {path.name: path for path in STUDIO.iterdir() if path.suffix in TYPES}

    # last of all routes; a name is looked up among the files that were there at the start, and
    # never becomes a path
    @app.get("/", response_class=FileResponse, include_in_schema=False)
    @app.get("/{name}", response_class=FileResponse, include_in_schema=False)
    async def studio(name: str = "index.html") -> FileResponse:
        if name not in files:
            raise Refusal(404, "There is no such page.", code="not_found")
        path = files[name]
        headers = {"Cache-Control": "no-cache"}
        return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)
