"""Errors as OpenAI's clients read them, for everything that can go wrong in a route."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from wishbone.core.contract.errors import WishboneError
from wishbone.core.serve.refusal import Refusal, of_error

MOST_SHOWN = 200
"""Characters of a validation's sentence."""

ANYWHERE = {
    401: "the token is missing or wrong",
    403: "a page of another site asks",
    408: "the body comes too slowly",
    413: "the body, the text or the audio is too long",
    421: "this server has another name",
    500: "something went wrong here; the log has the id of the request",
    503: "the server is stopping, or has too many connections",
}
"""Statuses that every route may answer with."""
INVALID = {400: "a field is wrong or cannot be honoured; param names it"}
"""What is answered where the framework itself would answer 422."""
NOWHERE = {404: "there is nothing of that name"}
FULL = {409: "the name is taken, or the folder is full"}
BUSY = {429: "all slots and the queue are full", 504: "it took longer than this server allows"}
SOMEWHERE = {
    ("post", "/v1/audio/speech"): NOWHERE | BUSY,
    ("get", "/v1/models/{name}"): NOWHERE,
    ("get", "/v1/audio/voices/{name}"): NOWHERE,
    ("delete", "/v1/audio/voices/{name}"): NOWHERE,
    ("post", "/v1/audio/voices"): NOWHERE | FULL,
    ("post", "/v1/votes"): FULL,
}
"""Statuses of some routes."""
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "a sentence for people"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "the field to blame"},
                "code": {"type": "string", "description": "a word for programs"},
            },
        }
    },
}
"""Schema of the body of every error."""
FRAMEWORK = ("HTTPValidationError", "ValidationError")
"""Schemas of answers that the framework would give, and this server does not."""


def answer(refusal: Refusal) -> JSONResponse:
    """Make the answer of a refusal."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def of_validation(errors: list[Any]) -> Refusal:
    """Refuse a body that does not fit its schema, naming the first field that is wrong."""
    first = errors[0] if errors else {"loc": (), "msg": "The request is wrong", "type": ""}
    fields = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "form")]
    kind = first["type"]
    if kind == "json_invalid":
        return Refusal(400, "The body is no JSON.", None, "invalid_json")
    # members of a union are named by their type, which no client sent
    param = next((part[:64] for part in fields if re.fullmatch(r"[\w.\[\]-]+", part[:64])), None)
    if kind == "extra_forbidden":
        message = f"'{param}' is no field of this request."
        return Refusal(400, message, param, "unknown_parameter")
    if kind == "missing":
        return Refusal(400, f"'{param or 'body'}' is missing.", param, "missing_required_parameter")
    sentence = str(first["msg"])[:MOST_SHOWN].rstrip(".")
    return Refusal(400, f"{param or 'The body'}: {sentence}.", param)


def add_failures(app: FastAPI) -> None:
    """Answer every error of the routes of ``app``."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return answer(error)

    @app.exception_handler(WishboneError)
    async def of_wishbone(_: Request, error: WishboneError) -> JSONResponse:
        return answer(of_error(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(of_validation(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def of_framework(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, Refusal):  # raised while the framework read the body
            return answer(error.__cause__)
        refusal = Refusal(
            error.status_code, str(error.detail), None, "http_error", dict(error.headers or {})
        )
        return answer(refusal)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # the guard, to which the framework hands the error on, logs it
        message = "Something went wrong here. The log of the server has the request's id."
        return answer(Refusal(500, message, code="internal"))


def describe_failures(app: FastAPI) -> None:
    """Make the OpenAPI document of ``app`` say what its errors are."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_failures(
                get_openapi(title=app.title, version=app.version, routes=app.routes)
            )
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _with_failures(document: dict[str, Any]) -> dict[str, Any]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            statuses = ANYWHERE | SOMEWHERE.get((method, path), {})
            if responses.pop("422", None):
                statuses = statuses | INVALID
            schema = {"schema": {"$ref": "#/components/schemas/Error"}}
            for status, words in sorted(statuses.items()):
                content = {"application/json": schema}
                responses.setdefault(str(status), {"description": words, "content": content})
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in FRAMEWORK:
        schemas.pop(name, None)
    schemas["Error"] = ERROR
    return document
