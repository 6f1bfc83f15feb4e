"""Routes between arms, what came of them, votes, and the settings that name them."""

import json
from dataclasses import asdict, replace

import pytest
import scipy.stats
import serving_toys as toys

from wishbone.core.contract.errors import ConfigError, UsageError
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.serve.request_log import Entry, RequestLog, difference
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
from wishbone.core.serve.web.gauges import Gauges

ROUTE = Route({"left": 3, "right": 1}, "header")


@pytest.fixture
def service(tmp_path):
    settings = {"routes": {"both": ROUTE, "jar": Route({"left": 1, "right": 1}, "cookie")}}
    arms = [toys.arm("left"), toys.arm("right", seed=1)]
    service = toys.make_service(tmp_path, arms, {**settings, "log": True})
    with toys.closing(service):
        yield service


def ask(client, model="both", text=toys.TEXT, headers=None, **fields):
    body = {"model": model, "input": text, "response_format": "pcm", **fields}
    return client.post("/v1/audio/speech", json=body, headers=headers or {})


def test_arms_get_their_shares_and_clients_keep_their_arm():
    chosen = [choose_arm("both", ROUTE, f"client {n}") for n in range(4000)]
    assert 0.72 < chosen.count("left") / 4000 < 0.78
    assert chosen == [choose_arm("both", ROUTE, f"client {n}") for n in range(4000)]
    # another route divides the same clients in another way
    other = [choose_arm("other", ROUTE, f"client {n}") for n in range(4000)]
    assert 0.5 < sum(map(str.__eq__, chosen, other)) / 4000 < 0.7
    assert {choose_arm("x", Route({"a": 0, "b": 1}), str(n)) for n in range(99)} == {"b"}


def test_a_route_answers_by_the_clients_arm_and_names_it(service):
    with toys.client_of(service) as client:
        arms = set()
        for name in map(str, range(8)):
            answers = [ask(client, headers={"X-Wishbone-Client": name}) for _ in range(2)]
            (arm,) = {answer.headers["x-wishbone-arm"] for answer in answers}
            assert answers[0].headers["x-wishbone-route"] == "both"
            assert answers[0].content == toys.offline(service, name=arm)
            arms.add(arm)
        assert arms == {"left", "right"}
        listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        assert listed["both"]["arms"] == {"left": 3, "right": 1}
        assert 'route="both"' in client.get("/metrics").text


def test_a_cookie_keeps_the_arm(service):
    with toys.client_of(service) as client:
        first = ask(client, "jar")
        assert "HttpOnly" in first.headers["set-cookie"]
        for _ in range(3):
            answer = ask(client, "jar")
            assert answer.headers["x-wishbone-arm"] == first.headers["x-wishbone-arm"]
            assert "set-cookie" not in answer.headers


def test_the_arms_are_compared_with_intervals(service):
    with toys.client_of(service) as client:
        for name in map(str, range(12)):
            ask(client, headers={"X-Wishbone-Client": name}, text=f"{toys.TEXT} {name}")
        ask(client, "left", "?!")
        route = client.get("/ab").json()["routes"]["both"]
    left = route["arms"]["left"]
    assert left["requests"] + route["arms"]["right"]["requests"] == 12
    assert left["failures"]["count"] == 0 and left["failures"]["high"] < 0.5
    assert left["first_sound"]["low"] <= left["first_sound"]["estimate"]
    assert set(route["differences"]["right"]) == {"first_sound", "real_time_factor"}
    assert route["baseline"] == "left"


def test_the_log_is_read_as_items_of_an_ab(service, tmp_path):
    with toys.client_of(service) as client:
        for seed in range(3):
            ask(client, "left", seed=seed)
        ask(client, "right", "?!")
    items = Items(tmp_path / "items.jsonl")
    spoken = items.of("left")
    assert [item.seed for item in spoken] == [0, 1, 2]
    assert {item.text for item in spoken} == {toys.TEXT} and not any(i.failed for i in spoken)
    assert all(item.seconds > 1 for item in spoken)
    assert items.of("right")[0].failed
    # a server that starts again remembers them, and goes on counting
    again = RequestLog(tmp_path / "items.jsonl")
    again.add(Entry("r", "", "left", "x", 0, "eager", "", 1.0, 0.5, 0.1, ""))
    assert len(Items(tmp_path / "items.jsonl").of("left")) == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0, 10.0]), ([1.0, 2.0], [4.0, 6.0, 8.0, 8.0])],
)
def test_a_difference_of_means_is_welchs(first, second):
    interval = difference(first, second)
    expected = scipy.stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    mean = sum(second) / len(second) - sum(first) / len(first)
    assert interval.estimate == pytest.approx(mean)
    assert difference(first[:1], second).high == float("inf")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_votes_are_counted_in_either_order_and_survive(service, tmp_path):
    with toys.client_of(service) as client:
        for a, b, choice in [
            ("left", "right", "a"),
            ("right", "left", "b"),
            ("left", "right", "b"),
        ]:
            body = {"a": a, "b": b, "choice": choice, "seed": 1, "text": "Hello."}
            assert client.post("/v1/votes", json=body).status_code == 201
        same = {"a": "right", "b": "left", "choice": "same"}
        (tally,) = client.post("/v1/votes", json=same).json()["data"]
        assert (tally["a"], tally["a_wins"], tally["b_wins"], tally["same"]) == ("left", 2, 1, 1)
        assert tally["low"] < tally["rate"] < tally["high"]
        assert tally["rate"] == pytest.approx(2 / 3) and tally["confidence"] == 0.95
        for wrong in ({"a": "nobody"}, {"b": "left"}, {"choice": "c"}, {"seed": "x"}, {"more": 1}):
            assert client.post("/v1/votes", json={**same, "a": "left", **wrong}).status_code == 400
        assert client.get("/v1/votes").json()["data"] == [tally]
    lines = (tmp_path / "votes.jsonl").read_text().splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["text"] == "Hello."
    with (tmp_path / "votes.jsonl").open("a") as file:
        file.write('{"a": "left", "b"')  # a server that was killed while it wrote
    assert Votes(tmp_path / "votes.jsonl").tally()["data"] == [tally]


def test_a_full_file_of_votes_takes_no_more(service):
    vote = {"a": "left", "b": "right", "choice": "same"}
    with toys.client_of(service) as client:
        service.votes.count = 999_999
        assert client.post("/v1/votes", json=vote).status_code == 201
        refused = client.post("/v1/votes", json=vote)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "folder_full")


def test_only_whole_answers_tell_how_fast_a_system_is():
    gauges = Gauges({})
    entry = Entry("r", "", "left", "x", 0, "eager", "", 2.0, 1.0, 0.1, "")
    for each in (entry, replace(entry, failure="cancelled"), replace(entry, seconds=0.0)):
        gauges.observe(each)
    text = gauges.text().decode()
    labels = '{route="none",system="left"}'
    assert f"wishbone_real_time_factor_count{labels} 1.0" in text
    assert f"wishbone_real_time_factor_sum{labels} 0.5" in text
    assert f"wishbone_audio_seconds_total{labels} 4.0" in text


def write(path, text):
    path.write_text(text)
    return path


def test_settings_are_read_from_a_file(tmp_path):
    text = (
        "systems: {one: quickstart-rwkv7, two: quickstart-transformer}\n"
        "limits: {slots: 3, characters: 100}\n"
        "routes: {speech: {arms: {one: 9, two: 1}, sticky: header}}\n"
        "voices: mine\nlog: true\nhosts: [speech.example]\n"
    )
    settings = read_settings(write(tmp_path / "serve.yaml", text)).check()
    assert settings.systems["one"] == "quickstart-rwkv7"
    assert settings.limits == Limits(slots=3, characters=100)
    assert settings.routes["speech"] == Route({"one": 9.0, "two": 1.0}, "header")
    assert settings.voice_folder == tmp_path / "mine" and settings.log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sistems: [a]\n", "not a key"),
        ("limits: {slot: 3}\n", "limits"),
        ("limits: {slots: -1}\n", "range"),
        ("limits: 3\n", "names and values"),
        ("routes: {x: {arms: {nobody: 1}}}\n", "no system"),
        ("routes: {x: {arms: {quickstart-rwkv7: 0}}}\n", "shares"),
        ("routes: {x: {arms: {quickstart-rwkv7: 1}, sticky: glue}}\n", "sticky"),
        ("routes: {quickstart-rwkv7: {arms: {quickstart-rwkv7: 1}}}\n", "a route and a system"),
        ("systems: {a/b: quickstart-rwkv7}\n", "name of a model"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(write(tmp_path / "serve.yaml", text)).check()


def test_limits_that_nobody_wrote_are_those_of_the_page():
    assert asdict(Limits()) == {
        "slots": 0, "queue": 32, "characters": 4096, "seconds": 600.0, "timeout": 300.0,
        "stall": 30.0, "drain": 30.0, "upload": 10_000_000, "voices": 1000, "connections": 256,
    }  # fmt: skip
    assert 4 <= Limits().resolved().slots <= 16 and Limits(slots=3).resolved().slots == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "speech.example", ""])
def test_an_address_that_others_reach_needs_a_token(host):
    with pytest.raises(UsageError, match="no token"):
        Settings({"a": "a"}, host=host).check()
    assert Settings({"a": "a"}, host=host, token="secret").check()


def test_this_machine_needs_none(tmp_path, monkeypatch):
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        assert Settings({"a": "a"}, host=host).check()
    monkeypatch.setenv("WISHBONE_TOKEN", " word ")
    assert read_token(None) == "word"
    assert read_token(str(write(tmp_path / "t", "secret\n"))) == "secret"
    for text in ("", "a\nb", "é"):
        with pytest.raises(UsageError):
            read_token(str(write(tmp_path / "t", text)))


def test_systems_of_the_command_line_get_names():
    assert model_names(["quickstart-rwkv7", "a/mine.yaml", "runs/x/export"]) == {
        "quickstart-rwkv7": "quickstart-rwkv7", "mine": "a/mine.yaml", "x": "runs/x/export",
    }  # fmt: skip
