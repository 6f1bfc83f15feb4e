"""Requests that nobody in good faith sends: never an error of the server, never a file outside.

``WISHBONE_FUZZ=2000`` sends so many, three in four to the routes and one in four as uploads; CI
sends fewer. Sockets that break the protocol itself are in test_serve_slow.py.
"""

import json
import os
import random
import string

import pytest
import serving_toys as toys

from wishbone.core.serve.settings import Route

ROUTES = [
    ("POST", "/v1/audio/speech"), ("POST", "/v1/votes"), ("POST", "/v1/audio/voices"),
    ("GET", "/v1/audio/voices/{}"), ("DELETE", "/v1/audio/voices/{}"), ("GET", "/v1/models/{}"),
    ("GET", "/{}"), ("GET", "/ab"), ("GET", "/v1/votes"), ("PUT", "/v1/models"),
]  # fmt: skip
TRICKS = [
    "../" * 8 + "etc/passwd", "..%2f..%2fx", "%00", "\\..\\x", "a" * 5000, "\u202e", "\ud83d\ude00",
    "\0", "{}", "[]", "null", "0", "-1", "1e309", "' OR 1=1 --", "<script>", "${x}", "file:///x",
    "CON", "\r\nX-Evil: 1", "tiny", "default", "kathleen", "\ufeff", "\U0010ffff", "?!", " ",
    "hello there",
]  # fmt: skip
FIELDS = (
    "model", "input", "voice", "instructions", "response_format", "speed", "stream_format", "seed",
    "a", "b", "choice", "text", "name", "__proto__", "id",
)  # fmt: skip
NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, 0.1, 1e308, True, False, None]

FUZZ = int(os.environ.get("WISHBONE_FUZZ", "640"))
"""Requests of all tests here together."""


class Generator:
    """Requests by chance, the same ones each time."""

    def __init__(self, seed):
        self.dice = random.Random(seed)

    def value(self, depth=0):
        kind = self.dice.randrange(6 if depth < 3 else 4)
        if kind == 0:
            return self.dice.choice(NUMBERS)
        if kind == 1:
            return "".join(self.dice.choices(string.printable, k=self.dice.randrange(40)))
        if kind in (2, 3):
            return self.dice.choice(TRICKS)
        if kind == 4:
            return [self.value(depth + 1) for _ in range(self.dice.randrange(4))]
        return {str(self.value(3))[:20]: self.value(depth + 1) for _ in range(3)}

    def body(self):
        kind = self.dice.randrange(8)
        if kind == 0:
            return self.dice.randbytes(self.dice.randrange(300))
        if kind == 1:
            return b"[" * self.dice.choice([10, 100_000])
        good = {"model": "tiny", "input": "hello", "a": "tiny", "b": "tiny", "choice": "a"}
        keys = self.dice.sample(FIELDS, self.dice.randrange(1, 6))
        text = json.dumps({**(good if kind > 3 else {}), **{key: self.value() for key in keys}})
        if kind == 2:
            return text.encode("utf-16")
        return text[: self.dice.randrange(len(text))].encode() if kind == 3 else text.encode()

    def headers(self):
        kinds = [
            "application/json", "multipart/form-data", "multipart/form-data; boundary=x",
            "multipart/form-data; boundary=" + "x" * 300, "text/plain", "",
            "application/json; charset=x", "application/x-www-form-urlencoded",
        ]  # fmt: skip
        headers = {"content-type": self.dice.choice(kinds)}
        if self.dice.random() < 0.2:
            headers["cookie"] = self.dice.choice(["wishbone_client=" + "x" * 999, ";;=", "a=b"])
        if self.dice.random() < 0.1:
            headers["x-wishbone-client"] = self.dice.choice(["", "x" * 5000, "%00"])
        return headers

    def form(self):
        """Parts of an upload in which anything may be wrong."""
        file = self.dice.choice([b"", b"RIFF", self.dice.randbytes(2000), b"OggS" + bytes(99)])
        texts = [trick.encode(errors="replace").decode() for trick in TRICKS]
        names = ["ok", *texts[:12]]
        data = {"name": self.dice.choice(names), "transcript": self.dice.choice(texts)}
        return data, {self.dice.choice(["audio", "audio", "file"]): (self.dice.choice(names), file)}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    settings = {"routes": {"route": Route({"tiny": 1}, "cookie")}}
    service = toys.make_service(folder / "inside", settings=settings, characters=200)
    with toys.closing(service), toys.client_of(service, raise_server_exceptions=False) as client:
        client.service, client.folder = service, folder
        yield client


def check(client, answer, what):
    assert answer.status_code < 500, (what, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"], what
    outside = [path for path in client.folder.iterdir() if path.name != "inside"]
    assert outside == [], what


@pytest.mark.parametrize("seed", range(8))
def test_what_chance_sends_is_answered(client, seed):
    generator = Generator(seed)
    for _ in range(3 * FUZZ // 4 // 8):
        method, path = generator.dice.choice(ROUTES)
        trick = generator.dice.choice(TRICKS)
        # what a client library would refuse to send, a hostile one escapes
        trick = "".join(c if c.isascii() and c.isprintable() else "%01" for c in trick)
        body, headers = generator.body(), generator.headers()
        answer = client.request(
            method, path.format(trick.replace(" ", "%20")), content=body, headers=headers
        )
        check(client, answer, (method, path, trick, body[:200], headers))
    assert client.service.is_idle
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("seed", range(4))
def test_uploads_by_chance_leave_nothing_outside(client, seed):
    generator = Generator(100 + seed)
    for _ in range(FUZZ // 4 // 4):
        data, files = generator.form()
        answer = client.post("/v1/audio/voices", data=data, files=files)
        check(client, answer, (data, files))
        assert answer.status_code >= 400


def test_the_guard_itself_lets_errors_through_to_the_test(client, monkeypatch):
    """Negative control: an error of a route is a 500 that ``check`` sees."""
    monkeypatch.setattr(client.service.votes, "tally", lambda: 1 / 0)
    with pytest.raises(AssertionError):
        check(client, client.get("/v1/votes"), "broken on purpose")
