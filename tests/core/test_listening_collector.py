"""The server: this machine only, fixed files only, answers that are checked and whole."""

import http.client
import json
import threading
from contextlib import contextmanager

import pytest
from listening_toys import make, page_of, prefers_fancy, session

from wishbone.core.cli import main
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.listening import collector
from wishbone.core.evaluate.listening.collector import Collector, check_host

pytest.importorskip("jinja2", reason="install the extra: pip install wishbone-tts[ab]")


@contextmanager
def serving(tmp_path):
    written, key = make(tmp_path, listeners=4)
    with Collector(written.folder, tmp_path / "answers") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, written, key
        server.shutdown()


def ask(server, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    connection.putrequest(method, path, skip_host="Host" in headers)
    if body is not None:
        headers.setdefault("Content-Length", str(len(body)))
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    return reply.status, reply.read(), reply.headers


def test_a_test_is_handed_out_and_answers_come_back(tmp_path):
    with serving(tmp_path) as (server, written, key):
        status, _, headers = ask(server, "/")
        assert status == 302 and headers["Location"] == "/?listener=1&collect=1"
        assert ask(server, "/")[2]["Location"] == "/?listener=2&collect=1"
        status, body, headers = ask(server, "/?listener=1&collect=1")
        assert status == 200 and body == (written.folder / "index.html").read_bytes()
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        clip = page_of(written)["forms"][0][0]["clips"][0]
        status, body, _ = ask(server, f"/audio/{clip}.wav")
        assert status == 200 and body[:4] == b"RIFF"
        status, part, headers = ask(server, f"/audio/{clip}.wav", Range="bytes=4-7")
        assert status == 206 and part == body[4:8]
        assert headers["Content-Range"] == f"bytes 4-7/{len(body)}"
        answers = session(written, key, prefers_fancy)
        assert ask(server, "/results", "POST", json.dumps(answers).encode())[0] == 200
        stored = tmp_path / "answers" / f"{answers['session']}.json"
        assert json.loads(stored.read_text()) == answers
        answers["complete"] = True
        ask(server, "/results", "POST", json.dumps(answers).encode())
        assert json.loads(stored.read_text())["complete"] and len(server.sessions()) == 1


@pytest.mark.parametrize(
    "path",
    ["/../test-key.json", "/audio/../../test-key.json", "/%2e%2e/test-key.json", "//etc/passwd",
     "/audio/%2e%2e%2f%2e%2e%2ftest-key.json", "/test-key.json", "/audio/", "/answers",
     "/audio/..\\..\\test-key.json", "/audio/aaaaaaaaaaaaaaaa.wav"],
)  # fmt: skip
def test_no_request_reaches_another_file(tmp_path, path):
    with serving(tmp_path) as (server, written, _):
        assert written.key.is_file()
        status, body, _ = ask(server, path)
        assert status == 404 and b"fancy" not in body


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"session": "../../escaped"}, 400),
        ({"session": "A" * 32}, 400),
        ({"session": "0" * 31 + "\n"}, 400),
        ({"session": ["0" * 32]}, 400),
        ({"test": "another"}, 400),
        ({"answers": [{}] * 1000}, 400),
        ({"answers": "many"}, 400),
        ({"answers": ["x"]}, 400),
    ],
)
def test_answers_that_no_page_sends_are_refused(tmp_path, change, status):
    with serving(tmp_path) as (server, written, key):
        answers = {**session(written, key, prefers_fancy), **change}
        before = {path for path in tmp_path.rglob("*")}
        assert ask(server, "/results", "POST", json.dumps(answers).encode())[0] == status
        assert {path for path in tmp_path.rglob("*")} == before


def test_answers_are_limited_in_size_and_number(tmp_path, monkeypatch):
    monkeypatch.setattr(collector, "MOST_SESSIONS", 1)
    with serving(tmp_path) as (server, written, key):
        assert ask(server, "/results", "POST", b"{}", Content_Length="1000001")[0] == 413
        assert ask(server, "/results", "POST", b"{}", Content_Length="-1")[0] == 413
        assert ask(server, "/results", "POST", b"no JSON")[0] == 400
        assert ask(server, "/results", "POST", b"{}", Content_Type="text/plain")[0] == 415
        assert ask(server, "/elsewhere", "POST", b"{}")[0] == 404
        for number, status in ((0, 200), (1, 400), (0, 200)):
            body = json.dumps(session(written, key, prefers_fancy, number)).encode()
            assert ask(server, "/results", "POST", body)[0] == status


def test_other_sites_and_other_names_are_refused(tmp_path):
    with serving(tmp_path) as (server, written, key):
        body = json.dumps(session(written, key, prefers_fancy)).encode()
        assert ask(server, "/", Host="evil.example")[0] == 403
        assert ask(server, "/results", "POST", body, Origin="http://evil.example")[0] == 403
        assert not server.sessions()
        own = f"http://127.0.0.1:{server.server_port}"
        assert ask(server, "/results", "POST", body, Origin=own)[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.2", "::", "example.org", ""])
def test_an_address_that_others_reach_is_refused(tmp_path, host):
    with pytest.raises(UsageError, match="other machines"):
        check_host(host)
    assert main.main(["listen", "serve", str(tmp_path), "--host", host]) == 2


def test_results_inside_the_folder_and_folders_without_a_test_are_refused(tmp_path):
    written, _ = make(tmp_path)
    with pytest.raises(UsageError, match="results would lie"):
        Collector(written.folder, written.folder / "audio")
    with pytest.raises(UsageError, match="no listening test"):
        Collector(tmp_path, tmp_path.parent / "answers")
