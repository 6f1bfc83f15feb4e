"""A small web server that hands out a listening test and stores the answers, on this machine only.

No part of a request becomes a path: what may be read is a table made at the start, and a file of
answers is named by a session's 32 hexadecimal digits, which are checked.
"""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.listening.handout import AUDIO, PAGE
from wishbone.core.report.json_file import write_json

LARGEST = 1_000_000
"""Bytes of one session's answers; a session of 500 trials has about 150 000."""
MOST_SESSIONS = 10_000
SESSION = re.compile(r"[0-9a-f]{32}")
CLIP = re.compile(r"[0-9a-f]{16}\.wav")
TIMEOUT = 30
"""Seconds that a connection may be silent."""
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; media-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def check_host(host: str) -> str:
    """Return ``host`` if it is this machine's own; raises ``UsageError`` for all others."""
    try:
        own = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        own = False
    if not own:
        raise UsageError(
            f"'{host}' can be reached from other machines.",
            "wishbone listen serve",
            "Use 127.0.0.1; for listeners elsewhere put the folder on a web server of yours, where"
            " they download their answers, or lead a tunnel here.",
        )
    return "127.0.0.1" if host == "localhost" else host


class Collector(ThreadingHTTPServer):
    """Serves one test's folder and writes answers to ``results``, one file a session.

    Raises ``UsageError`` where the folder holds no test, the results would lie within it, or the
    address is not this machine's own.
    """

    daemon_threads = True

    def __init__(self, folder: Path, results: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        if results.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                "The results would lie in the folder that listeners get.",
                str(results),
                "Give --results a path outside of it.",
            )
        self.data = page_data(folder)
        self.files = {"/": folder / PAGE, f"/{PAGE}": folder / PAGE} | {
            f"/{AUDIO}/{path.name}": path
            for path in (folder / AUDIO).iterdir()
            if CLIP.fullmatch(path.name)
        }
        self.results = results
        self.results.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        self._sent_to = len(self.sessions())
        try:
            super().__init__((check_host(host), port), _Handler)
        except OSError as error:
            raise UsageError(
                f"The port cannot be used: {error.strerror}.", f"{host}:{port}", "Choose another."
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in (host, "localhost", "127.0.0.1")}

    @property
    def address(self) -> str:
        """Address that listeners open."""
        return f"http://{self.server_address[0]}:{self.server_port}/"

    def sessions(self) -> list[Path]:
        """Files of answers that have come so far."""
        return [path for path in self.results.glob("*.json") if SESSION.fullmatch(path.stem)]

    def next_listener(self) -> int:
        """Return the number of the next listener, from 1: each new one gets the next form."""
        with self._lock:
            self._sent_to += 1
            return self._sent_to

    def accept(self, body: bytes) -> str:
        """Store a session's answers -> "", or a sentence on what is wrong with them."""
        try:
            answers = json.loads(body)
        except ValueError:
            return "This is no JSON."
        problem = _problem(answers, self.data)
        if problem:
            return problem
        path = self.results / f"{answers['session']}.json"
        with self._lock:
            if not path.exists() and len(self.sessions()) >= MOST_SESSIONS:
                return "There are too many sessions."
            write_json(path, answers)
        return ""


def page_data(folder: Path) -> dict[str, Any]:
    """Read the test out of a folder's page. Raises ``UsageError`` where there is none."""
    page = folder / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    match = re.search(r'<script type="application/json" id="test">(.*?)</script>', text, re.DOTALL)
    if not match or not (folder / AUDIO).is_dir():
        raise UsageError(
            "The folder holds no listening test.",
            str(folder),
            "Name the folder that 'wishbone listen make' wrote.",
        )
    return json.loads(match[1])


def _problem(answers: Any, data: dict[str, Any]) -> str:
    """Return a sentence on the first thing that no page of this test sends, or ""."""
    if not isinstance(answers, dict) or answers.get("test") != data["test"]:
        return "These are answers of another test."
    session, rows = answers.get("session"), answers.get("answers")
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        return "The session has no name of 32 hexadecimal digits."
    if not isinstance(rows, list) or len(rows) > max(map(len, data["forms"])):
        return "There are more answers than trials."
    return "" if all(isinstance(row, dict) for row in rows) else "An answer is no table of keys."


class _Handler(BaseHTTPRequestHandler):
    server: Collector  # type: ignore[assignment]
    timeout = TIMEOUT
    protocol_version = "HTTP/1.1"
    server_version = "wishbone"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        address = urlsplit(self.path)
        path = self.server.files.get(address.path)
        if path is None:
            self._answer(404, b"There is no such file.\n")
        elif address.path == "/" and "collect" not in address.query:
            self._answer(302, b"", Location=f"/?listener={self.server.next_listener()}&collect=1")
        else:
            self._send_file(path)

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        length = self.headers.get("Content-Length", "")
        # what is not read would be taken for the next request
        self.close_connection = True
        if urlsplit(self.path).path != "/results":
            self._answer(404, b"Answers go to /results.\n")
        elif self.headers.get_content_type() != "application/json":
            self._answer(415, b"Answers are JSON.\n")
        elif not length.isdigit() or int(length) > LARGEST:
            self._answer(413, f"Answers have a length of at most {LARGEST} bytes.\n".encode())
        else:
            problem = self.server.accept(self.rfile.read(int(length)))
            self._answer(400 if problem else 200, f"{problem or 'stored'}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: addresses of listeners are not to be stored."""

    def _is_for_us(self) -> bool:
        """Refuse what another site makes a browser send here, by a name or an origin of its own."""
        origin = self.headers.get("Origin")
        fine = self.headers.get("Host", "") in self.server.hosts and (
            origin is None or urlsplit(origin).netloc in self.server.hosts
        )
        if not fine:
            self.close_connection = True
            self._answer(403, b"This server answers only to its own pages.\n")
        return fine

    def _send_file(self, path: Path) -> None:
        body = path.read_bytes()
        kind = "audio/wav" if path.suffix == ".wav" else "text/html; charset=utf-8"
        # a browser asks for parts of audio, and some play nothing without them
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part and int(part[1]) < len(body):
            first, end = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            where = f"bytes {first}-{end}/{len(body)}"
            self._answer(206, body[first : end + 1], kind, Content_Range=where)
        else:
            self._answer(200, body, kind)

    def _answer(
        self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8",
        Location: str = "", Content_Range: str = "",
    ) -> None:  # fmt: skip
        self.send_response(status)
        more = {"Location": Location, "Content-Range": Content_Range, "Accept-Ranges": "bytes"}
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS, **more}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
