"""A real `wishbone serve`: its own process, a free port, and an end in every case."""

import json
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "websockets"):
    pytest.importorskip(package, reason="the extra 'serve' is not installed")

from wishbone.core.serve.load_test import run_server  # noqa: E402

ARMS = ("quickstart-rwkv7", "quickstart-transformer")


@dataclass
class RealServer:
    """A running server: its process, address and log."""

    process: object
    port: int
    lines: list

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def records(self):
        """Lines of the log that are JSON (``--json-logs``)."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]


@contextmanager
def running(folder, *words):
    """Start a server that keeps its files in a folder, and kill it at the end."""
    with run_server([*words, "--folder", str(folder)]) as server:
        yield RealServer(*server)
