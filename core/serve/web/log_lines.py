"""Lines of the log, each with the id of its request, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

LOGGER = logging.getLogger("wishbone.serve")
REQUEST: ContextVar[str] = ContextVar("request", default="-")
"""Id of the request that the running task answers."""


def write(message: str, facts: Mapping[str, Any] | None = None) -> None:
    """Write a line; ``facts`` are fields of their own in JSON, and ``key=value`` in text."""
    LOGGER.info(message, extra={"facts": facts or {}})


def warn(message: str, facts: Mapping[str, Any] | None = None) -> None:
    """Write a line about something that went wrong."""
    LOGGER.warning(message, extra={"facts": facts or {}})


class _Lines(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        facts = record.__dict__.get("facts", {})
        message, request = record.getMessage(), REQUEST.get()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            row = {"time": round(record.created, 3), "level": record.levelname.lower()}
            row |= {"request": request, "message": message, **facts}
            return json.dumps(row | ({"trace": trace} if trace else {}), default=str)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        # a client's line break would make a line that nobody wrote, its escapes colour the terminal
        message = "".join(c if c.isprintable() else "?" for c in message)
        words = [f"{key}={json.dumps(value, default=str)}" for key, value in facts.items()]
        line = " ".join([clock, request, message, *words])
        return f"{line}\n{trace}" if trace else line


def set_up_logging(as_json: bool) -> None:
    """Send all lines to standard error, those of the web server's library, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for name, level in (("uvicorn", logging.WARNING), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler] if name == "uvicorn" else []
        logger.setLevel(level)
        logger.propagate = name != "uvicorn"
