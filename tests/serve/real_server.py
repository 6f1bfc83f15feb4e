"""A real `wishbone serve`: its own process, a free port, and an end in every case."""

import http.client
import json
import re
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

    def ask(self, text, drop_after=None, **fields):
        """Speak -> the bytes as they came; ``drop_after`` parts the client goes away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = {"model": ARMS[0], "input": text, "response_format": "pcm", **fields}
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/audio/speech", json.dumps(body), headers)
            if drop_after == 0:
                return []
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            parts = []
            while part := answer.read1(65_536):
                parts.append(part)
                if len(parts) == drop_after:
                    break
            return parts
        finally:
            connection.close()

    def metric(self, name, **labels):
        """Sum of a metric over all that have the labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for found, value in lines if all(w in found for w in wanted))

    def records(self):
        """Lines of the log that are JSON (``--json-logs``)."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]


@contextmanager
def running(folder, *words):
    """Start a server that keeps its files in a folder, and kill it at the end."""
    with run_server([*words, "--folder", str(folder)]) as server:
        yield RealServer(*server)
