"""Errors as OpenAI's clients read them, for everything that can go wrong in a route."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from wishbone.core.contract.errors import WishboneError
from wishbone.core.serve.refusal import Refusal, of_error

MOST_SHOWN = 200
"""Characters of a validation's sentence."""


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
