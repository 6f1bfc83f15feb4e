"""Refusals: an answer to a request that says what cannot be done, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wishbone.core.contract.errors import WishboneError


class Refusal(Exception):
    """A request that is not honoured: a status, a sentence, and the field that is to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str = "invalid_value",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The object that OpenAI's clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def busy(seconds: int) -> Refusal:
    """Refuse for want of room, with the time after which to come again."""
    message = f"All slots and the queue are full. Try again in {seconds} s."
    return Refusal(429, message, code="queue_full", headers={"Retry-After": str(seconds)})


def draining() -> Refusal:
    """Refuse because the server is about to stop."""
    message = "This server is stopping and takes no more requests."
    return Refusal(503, message, code="draining", headers={"Retry-After": "5"})


def of_error(error: WishboneError, param: str | None = None) -> Refusal:
    """Refuse a request that a part of the system refuses; paths of this machine are left out."""
    return Refusal(400, f"{error.what} {error.do}".strip(), param, "unsupported_value")
