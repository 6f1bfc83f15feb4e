"""Settings as they are read and checked, routes at their edges, the log of requests, and votes."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import numpy as np
import pytest
import serving_toys as toys

from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.core.evaluate.statistics.paired import bootstrap, wilson
from wishbone.core.serve import routing, settings, voice_folder, votes
from wishbone.core.serve.encoding import FORMATS
from wishbone.core.serve.request_log import NEWEST, Entry, RequestLog, difference, prompt_key
from wishbone.core.serve.routing import choose_arm
from wishbone.core.serve.settings import (
    Limits,
    Route,
    Settings,
    model_names,
    read_settings,
    read_token,
)
from wishbone.core.serve.votes import Votes
from wishbone.core.serve.web.service import Choice


def read(tmp_path, text):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    return read_settings(path)


def test_what_threads_share_cannot_be_changed():
    entry = Entry("r", "", "a", "x", 0, "eager", "", 1.0, 0.5, 0.1, "")
    shared = [
        (Limits(), "slots"), (Route(), "sticky"), (Settings({}), "port"), (entry, "seed"),
        (Choice(None), "route"), (FORMATS["wav"], "streaming"),
        (voice_folder._Cached(None, (0, 0)), "stamp"),
    ]  # fmt: skip
    for value, name in shared:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)


@pytest.mark.parametrize(
    ("cores", "slots"), [(None, 4), (1, 4), (2, 8), (3, 12), (4, 16), (5, 16), (64, 16)]
)
def test_slots_follow_from_the_cores(monkeypatch, cores, slots):
    monkeypatch.setattr(settings.os, "cpu_count", lambda: cores)
    assert Limits().resolved() == Limits(slots=slots)
    assert Limits(slots=1, queue=7).resolved() == Limits(slots=1, queue=7)


def test_limits_are_told_as_people_write_them():
    lines = Limits(slots=8, seconds=0.5).lines()
    assert lines[0] == "slots 8" and "seconds 0.5" in lines and "upload 1e+07" in lines
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("upload: 1", True), ("upload: 0", False), (f"upload: {2**30}", True),
        (f"upload: {2**30 + 1}", False), ("queue: 0", True), ("queue: -1", False),
        ("characters: 1", True), ("characters: 0", False), ("seconds: 0.001", True),
        ("seconds: 0", False), ("stall: 0", False), ("connections: 0", False), ("voices: 0", True),
    ],
)  # fmt: skip
def test_limits_have_ranges(tmp_path, text, right):
    if right:
        assert read(tmp_path, f"limits: {{{text}}}\n").limits
    else:
        with pytest.raises(ConfigError):
            read(tmp_path, f"limits: {{{text}}}\n")


def test_an_empty_file_means_what_no_file_means(tmp_path):
    found = read(tmp_path, "")
    plain = Settings({})
    assert sorted(found.systems) == ["quickstart-rwkv7", "quickstart-transformer"]
    assert found.folder == tmp_path / "runs" / "serve" and plain.folder.parts == ("runs", "serve")
    assert found.voice_folder == found.folder / "voices" and found.voices is None
    for each in (found, plain):
        assert (each.log, each.hosts, each.routes) == (False, type(each.hosts)(), {})
        assert (each.host, each.port, each.token) == ("127.0.0.1", 8880, "")
        assert each.limits == Limits()


def test_files_are_looked_for_beside_the_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    found = read(
        tmp_path,
        "systems: {one: mine.yaml, two: other.yaml}\nfolder: here\nhosts: [a.example, 5]\n"
        "log: true\n",
    )
    assert found.systems == {"one": str(tmp_path / "mine.yaml"), "two": "other.yaml"}
    assert found.folder == tmp_path / "here" and found.log is True
    assert found.hosts == ["a.example", "5"]
    assert read(tmp_path, "systems: mine.yaml\n").systems == {"mine": str(tmp_path / "mine.yaml")}
    assert read(tmp_path, "systems: [a.yaml, b.yml]\n").systems == {"a": "a.yaml", "b": "b.yml"}
    assert read(tmp_path, "systems: {1: 2}\n").systems == {"1": "2"}


def test_a_mistake_is_told_with_its_file_and_line(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "log: true\nlocks: 1\n")
    assert caught.value.where == f"{tmp_path / 'serve.yaml'}:2" and "limits" in caught.value.do
    with pytest.raises(UsageError, match="no such file"):
        read_settings(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="routes.x holds names") as caught:
        read(tmp_path, "routes: {x: 3}\n")


@pytest.mark.parametrize(
    ("arms", "right"),
    [
        ({"a": 1}, True), ({"a": 0, "b": 0.5}, True), ({"a": 0, "b": 0}, False), ({}, False),
        ({"a": -1, "b": 2}, False), ({"a": math.inf}, False), ({"a": math.nan}, False),
        ({"a": 1, "c": 1}, False),
    ],
)  # fmt: skip
def test_shares_are_numbers_of_which_one_is_more_than_none(arms, right):
    told = Settings({"a": "a", "b": "b"}, routes={"both": Route(arms)})
    if right:
        assert told.check() is told
    else:
        with pytest.raises(ConfigError, match="both") as caught:
            told.check()
        assert caught.value.where == "routes.both.arms"
        if not arms or "c" in arms:
            assert f"served: {'c' if arms else 'none'}." in caught.value.what
            assert "a, b" in caught.value.do


@pytest.mark.parametrize("name", ["a b", ".a", "", "a" * 65, "é", "a\n"])
def test_a_name_of_a_route_is_one_of_a_model(name):
    with pytest.raises(ConfigError, match="name of a model"):
        Settings({"a": "a"}, routes={name: Route({"a": 1})}).check()
    assert Settings({"a" * 64: "a"}).check()


def test_systems_without_a_name_of_their_own_are_named_by_their_folder(tmp_path):
    names = model_names([str(tmp_path / "x" / "config.yaml"), str(tmp_path / "y" / "export")])
    assert list(names) == ["x", "y"]
    # the second of a name has its folder's
    assert list(model_names(["mine.yaml", str(tmp_path / "z" / "mine.yaml")])) == ["mine", "z"]
    same = [str(tmp_path / "z" / "mine.yaml")] * 3
    with pytest.raises(UsageError, match="no name of its own"):
        model_names(same)
    with pytest.raises(UsageError, match="no name of its own"):
        model_names(["a b"])
    assert list(model_names(["runs/v1.2"])) == ["v1.2"]


def test_a_token_that_cannot_be_read_is_a_mistake_of_the_caller(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(str(tmp_path / "nothing"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(str(tmp_path / "bytes"))
    monkeypatch.delenv("WISHBONE_TOKEN", raising=False)
    assert read_token(None) == ""


def chosen_at(monkeypatch, digest, arms):
    hashed = SimpleNamespace(sha256=lambda data: SimpleNamespace(digest=lambda: digest))
    monkeypatch.setattr(routing, "hashlib", hashed)
    return choose_arm("x", Route(arms), "client")


@pytest.mark.parametrize(
    ("digest", "arms", "arm"),
    [
        (bytes(32), {"a": 0, "b": 1, "c": 1}, "b"),
        (b"\xff" * 32, {"a": 1, "b": 1, "c": 0}, "b"),
        (b"\x7f" + bytes(31), {"a": 1, "b": 1}, "a"),
        (b"\x80" + bytes(31), {"a": 1, "b": 1}, "b"),
        (b"\x3f" + bytes(31), {"a": 0.25, "b": 0.75}, "a"),
        (b"\x40" + bytes(31), {"a": 0.25, "b": 0.75}, "b"),
    ],
)
def test_who_has_no_share_gets_nobody_at_either_end(monkeypatch, digest, arms, arm):
    assert chosen_at(monkeypatch, digest, arms) == arm


ENTRY = Entry("r", "both", "a", "Hello.", 3, "eager", "me", 2.0, 1.0, 0.25, "")


def test_work_for_a_second_of_audio_is_unknown_without_audio():
    assert ENTRY.real_time_factor == 0.5
    assert replace(ENTRY, seconds=0.0).real_time_factor is None


def test_lines_of_the_log_are_numbered_on_after_a_restart(tmp_path):
    path = tmp_path / "deep" / "items.jsonl"
    log = RequestLog(path)
    for entry in (ENTRY, replace(ENTRY, arm="b"), ENTRY):
        log.add(entry)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["arm"], row["repeat"]) for row in rows] == [("a", 0), ("b", 0), ("a", 1)]
    assert rows[0]["prompt"] == prompt_key("Hello.") and len(rows[0]["prompt"]) == 12
    assert rows[0]["time"] > 1e9
    lines = path.read_text().splitlines()
    spoilt = ["{", "[1]", "{}", "3", json.dumps({**rows[0], "repeat": None})]
    # older lines may stand below newer ones
    path.write_text("\n".join([lines[2], *spoilt, lines[0], lines[1]]) + "\n")
    again = RequestLog(path)
    assert again.summary({"both": ["a"]})["routes"]["both"]["arms"]["a"]["requests"] == 2
    again.add(ENTRY)
    again.add(replace(ENTRY, arm="b"))
    rows = [json.loads(line) for line in path.read_text().splitlines()[-2:]]
    assert [row["repeat"] for row in rows] == [2, 1]


def test_texts_stay_readable_and_half_characters_do_no_harm(tmp_path):
    log = RequestLog(tmp_path / "items.jsonl")
    log.add(replace(ENTRY, text="Grüße"))
    assert "Grüße" in (tmp_path / "items.jsonl").read_text(encoding="utf-8")
    assert prompt_key("half \ud800") == prompt_key("half ?")


def test_a_log_without_a_file_still_compares():
    log = RequestLog(None)
    for number in range(NEWEST + 5):
        log.add(replace(ENTRY, failure="error" if number < 5 else ""))
    told = log.summary({"both": ["a"]})["routes"]["both"]["arms"]["a"]
    # the page says: of the newest 2000
    assert (told["requests"], told["failures"]["count"]) == (2000, 0)


def test_the_figures_of_arms_are_those_of_their_requests():
    log, dice = RequestLog(None), np.random.default_rng(0)
    first = {arm: dice.random(9) + shift for arm, shift in (("a", 0.0), ("b", 1.0))}
    for arm, values in first.items():
        for value in values:
            log.add(replace(ENTRY, arm=arm, first_sound=value, spent=3 * value))
    log.add(replace(ENTRY, failure="cancelled"))
    log.add(replace(ENTRY, failure="timeout", first_sound=None))
    log.add(replace(ENTRY, first_sound=None, seconds=0.0))
    log.add(replace(ENTRY, route="other"))
    told = log.summary({"both": ["a", "b", "c"], "none": ["a"]})["routes"]
    arm = told["both"]["arms"]["a"]
    assert (arm["requests"], arm["cancelled"], arm["failures"]["count"]) == (12, 1, 1)
    failed = wilson(1, 12)
    assert arm["failures"]["estimate"] == failed.estimate and arm["failures"]["high"] == failed.high
    interval = bootstrap(first["a"], draws=2000)
    assert (arm["first_sound"]["low"], arm["first_sound"]["high"]) == (interval.low, interval.high)
    assert arm["real_time_factor"]["estimate"] == pytest.approx(first["a"].mean() * 1.5)
    welch = difference(first["a"], first["b"])
    compared = told["both"]["differences"]
    assert compared["b"]["first_sound"]["low"] == pytest.approx(welch.low)
    assert compared["c"] == {} and set(compared) == {"b", "c"} and told["both"]["baseline"] == "a"
    assert "first_sound" not in told["both"]["arms"]["c"]
    assert told["none"]["arms"]["a"]["requests"] == 0


def test_one_request_says_nothing_about_others_and_json_has_no_infinity():
    log = RequestLog(None)
    for arm in ("a", "b", "b"):
        log.add(replace(ENTRY, arm=arm))
    told = log.summary({"both": ["a", "b"]})["routes"]["both"]
    assert told["arms"]["a"]["first_sound"] == {"estimate": 0.25, "low": None, "high": None}
    assert told["differences"]["b"]["first_sound"]["low"] is None
    assert json.dumps(told, allow_nan=False)


def test_a_difference_needs_two_of_each_and_knows_equal_ones():
    assert difference([1.0, 1.0], [3.0, 3.0]).low == difference([1.0, 1.0], [3.0, 3.0]).high == 2.0
    for first, second in (([1.0], [2.0, 3.0]), ([1.0, 2.0], [3.0])):
        assert (difference(first, second).low, difference(first, second).high) == (
            -math.inf, math.inf,
        )  # fmt: skip
    two = difference([1.0, 2.0], [3.0, 5.0])
    assert -math.inf < two.low < 2.5 == two.estimate < two.high < math.inf


def test_votes_of_a_spoilt_file_are_left_out_and_counted_on(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "votes.jsonl"
    assert Votes(path).tally() == {"object": "list", "data": []}
    clock = SimpleNamespace(time=lambda: 12.34567)
    monkeypatch.setattr(votes, "time", clock)
    file = Votes(path)
    for a, b, choice in (("b", "a", "a"), ("c", "a", "same"), ("a", "b", "same")):
        file.add({"a": a, "b": b, "choice": choice, "text": "ä"})
    assert file.count == 3 and "ä" in path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["time"] for row in rows] == [12.346] * 3
    spoilt = '{\n[1]\n{"a": "a"}\n{"a": "a", "b": "b", "choice": "c"}\n'
    path.write_text(spoilt + path.read_text())
    again = Votes(path)
    assert again.count == 3
    first, second = again.tally()["data"]
    assert (first["a"], first["b"], second["a"], second["b"]) == ("a", "b", "a", "c")
    assert (first["votes"], first["a_wins"], first["b_wins"], first["same"]) == (2, 0, 1, 1)
    assert (first["rate"], first["high"]) == (0.0, wilson(0, 1).high)
    assert (second["rate"], second["low"], second["high"]) == (None, 0.0, 1.0)


def test_a_vote_that_cannot_be_written_is_not_counted(tmp_path):
    (tmp_path / "file").write_text("")
    service = toys.make_service(tmp_path, [toys.arm("left"), toys.arm("right")])
    service.votes.path = tmp_path / "file" / "votes.jsonl"
    with toys.closing(service), toys.client_of(service) as client:
        vote = {"a": "left", "b": "right", "choice": "a"}
        answer = client.post("/v1/votes", json=vote)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "storage")
        assert client.get("/v1/votes").json()["data"] == []
        for side, wrong in (("a", "nobody"), ("b", "nobody"), ("b", "left")):
            error = client.post("/v1/votes", json={**vote, side: wrong})
            assert (error.status_code, error.json()["error"]["param"]) == (400, side)
        for name, size in (("voice", 64), ("a", 64), ("b", 64)):
            long = client.post("/v1/votes", json={**vote, name: "x" * (size + 1)})
            assert "at most 64" in long.json()["error"]["message"]
            known = client.post("/v1/votes", json={**vote, name: "x" * size})
            assert "at most" not in known.text
        for field in ("text", "voice"):
            many = client.post("/v1/votes", json={**vote, field: "x" * 5000})
            assert many.status_code in (400, 413) and many.json()["error"]["param"] == field
        for seed, status in ((-1, 400), (0, 500), (2**63 - 1, 500), (2**63, 400)):
            assert client.post("/v1/votes", json={**vote, "seed": seed}).status_code == status
