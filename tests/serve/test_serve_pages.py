"""What the server tells about itself: its document, errors, state, metrics and log lines."""

import asyncio
import json
import time

import pytest
import serving_toys as toys
from serving_toys import TEXT, Caller
from starlette.exceptions import HTTPException

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.serve.admission import Gate
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.request_log import Entry
from wishbone.core.serve.settings import Route
from wishbone.core.serve.web import app as app_module
from wishbone.core.serve.web import failures, log_lines, speech_routes
from wishbone.core.serve.web.app import create_app
from wishbone.core.serve.web.failures import of_validation
from wishbone.core.serve.web.gauges import Gauges

ALWAYS = {"401", "403", "408", "413", "421", "500", "503"}
STATUSES = {
    ("/v1/models", "get"): {"200"},
    ("/v1/models/{name}", "get"): {"200", "400", "404"},
    ("/v1/audio/speech", "post"): {"200", "400", "404", "429", "504"},
    ("/v1/audio/voices", "get"): {"200"},
    ("/v1/audio/voices", "post"): {"201", "400", "404", "409"},
    ("/v1/audio/voices/{name}", "get"): {"200", "400", "404"},
    ("/v1/audio/voices/{name}", "delete"): {"200", "400", "404"},
    ("/v1/votes", "post"): {"201", "400", "409"},
    ("/v1/votes", "get"): {"200"},
    ("/ab", "get"): {"200"},
    ("/health", "get"): {"200"},
    ("/ready", "get"): {"200"},
    ("/metrics", "get"): {"200"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    routes = {"both": Route({"tiny": 1.0}, "cookie")}
    folder = tmp_path_factory.mktemp("pages")
    with toys.closing(toys.make_service(folder, settings={"routes": routes})) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    with toys.client_of(service) as client:
        yield client


@pytest.fixture
def lines(caplog):
    """The lines of the server's log, with their facts."""
    logger = log_lines.LOGGER
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = [caplog.handler], False
    logger.setLevel("INFO")
    yield lambda: [(r.levelname, r.getMessage(), r.facts) for r in caplog.records]
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_the_document_names_every_status_of_every_route(client):
    document = client.get("/openapi.json").json()
    told = {
        (path, method): set(operation["responses"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert told == {key: statuses | ALWAYS for key, statuses in STATUSES.items()}
    speech = document["paths"]["/v1/audio/speech"]["post"]["responses"]
    assert list(speech) == ["200", *sorted(set(speech) - {"200"})]
    reference = {"schema": {"$ref": "#/components/schemas/Error"}}
    assert speech["429"]["content"] == {"application/json": reference}
    assert speech["429"]["description"] == failures.BUSY[429]
    assert {"audio/mpeg", "audio/wav", "text/event-stream"} <= speech["200"]["content"].keys()
    # the state of a server that drains is no error
    ready = document["paths"]["/ready"]["get"]["responses"]["503"]
    assert ready["content"]["application/json"] != reference
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()


def test_the_document_is_made_once(monkeypatch, service):
    made = []
    real = failures.get_openapi
    monkeypatch.setattr(failures, "get_openapi", lambda **given: made.append(1) or real(**given))
    with toys.client_of(service) as client:
        first, second = (client.get("/openapi.json").json() for _ in range(2))
    assert first == second and made == [1]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/nothing.js", "/x.html"])
def test_no_page_loads_anything_from_elsewhere(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", sorted(p.name for p in app_module.STUDIO.iterdir()))
def test_each_file_of_the_studio_has_its_type_and_is_asked_for_again(client, path):
    answer = client.get(f"/{path}")
    ending = "." + path.rsplit(".")[-1]
    assert answer.status_code == (200 if ending in app_module.TYPES else 404)
    if answer.status_code == 200:
        assert answer.headers["content-type"] == app_module.TYPES[ending]
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.content == (app_module.STUDIO / path).read_bytes()


VALIDATIONS = [
    ({"loc": ("body", "seed"), "msg": "It is small.", "type": "less"}, "seed: It is small.", "seed",
     "invalid_value"),
    ({"loc": ("body", 3), "msg": "Bad..", "type": "json_invalid"}, "The body is no JSON.", None,
     "invalid_json"),
    ({"loc": ("query", "a b", "c"), "msg": "Bad", "type": "x"}, "c: Bad.", "c", "invalid_value"),
    ({"loc": (), "msg": "y" * 300, "type": "x"}, f"The body: {'y' * 200}.", None, "invalid_value"),
    ({"loc": ("body", "z" * 70), "msg": "-", "type": "extra_forbidden"},
     f"'{'z' * 64}' is no field of this request.", "z" * 64, "unknown_parameter"),
    ({"loc": ("body", "é b"), "msg": "-", "type": "extra_forbidden"},
     "'None' is no field of this request.", None, "unknown_parameter"),
    ({"loc": ("body", "input"), "msg": "-", "type": "missing"}, "'input' is missing.", "input",
     "missing_required_parameter"),
    ({"loc": ("body",), "msg": "-", "type": "missing"}, "'body' is missing.", None,
     "missing_required_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "param", "code"), VALIDATIONS)
def test_a_field_that_does_not_fit_is_told_in_one_sentence(error, message, param, code):
    refusal = of_validation([error, {"loc": ("other",), "msg": "second", "type": "missing"}])
    assert (refusal.status, refusal.message) == (400, message)
    assert (refusal.param, refusal.code) == (param, code)


def test_an_error_without_words_is_one_too():
    refusal = of_validation([])
    assert (refusal.status, refusal.message) == (400, "The body: The request is wrong.")


def test_an_error_of_the_framework_has_our_form_and_its_headers(client):
    answer = client.put("/v1/models")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (405, "http_error", None)
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("kind", ["wishbone", "framework", "refusal", "unforeseen"])
def test_what_a_route_raises_is_answered_in_one_form(service, monkeypatch, kind, lines):
    errors = {
        "wishbone": CheckpointError("It is damaged.", "/secret", "Make it again."),
        "framework": HTTPException(418, "No coffee."),
        "refusal": HTTPException(400, "hidden"),
        "unforeseen": ZeroDivisionError("why"),
    }
    errors["refusal"].__cause__ = Refusal(413, "It is long.", code="too_long")

    def fail():
        raise errors[kind]

    monkeypatch.setattr(service.votes, "tally", fail)
    with toys.client_of(service, raise_server_exceptions=False) as client:
        answer = client.get("/v1/votes")
    told = (answer.status_code, answer.json()["error"]["message"], answer.json()["error"]["code"])
    assert told == {
        "wishbone": (400, "It is damaged. Make it again.", "unsupported_value"),
        "framework": (418, "No coffee.", "http_error"),
        "refusal": (413, "It is long.", "too_long"),
        "unforeseen": (
            500, "Something went wrong here. The log of the server has the request's id.",
            "internal",
        ),
    }[kind]  # fmt: skip


def test_models_are_told_with_their_rate_and_engine(client, service):
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert list(listed) == ["tiny", "both"]
    assert listed["tiny"] == {
        "id": "tiny", "object": "model", "created": speech_routes.STARTED, "owned_by": "wishbone",
        "sample_rate": 24_000, "engine": service.arms["tiny"].system.model.engine,
    }  # fmt: skip
    assert listed["both"]["sample_rate"] == 24_000 and listed["both"]["arms"] == {"tiny": 1.0}
    assert 0 <= time.time() - listed["tiny"]["created"] < 36_000
    error = client.get(f"/v1/models/{'x' * 80}").json()["error"]
    assert f"'{'x' * 64}'" in error["message"] and error["code"] == "model_not_found"
    for path in ("/v1/models/both", "/v1/models/tiny"):
        assert client.get(path).json()["id"] == path.rsplit("/")[-1]


def test_an_unknown_model_is_counted_and_told_with_those_there_are(client):
    body = {"model": "x" * 80, "input": "Hi."}
    error = client.post("/v1/audio/speech", json=body).json()["error"]
    assert error["message"] == f"There is no model '{'x' * 64}'. Models: tiny, both."
    counted = 'wishbone_requests_total{outcome="model_not_found",route="none",system="unknown"} 1.0'
    assert counted in client.get("/metrics").text


@pytest.mark.parametrize(("field", "status"), [("input", 200), ("instructions", 400)])
def test_a_text_has_its_last_character_and_not_one_more(tmp_path, field, status):
    with toys.closing(toys.make_service(tmp_path, characters=20)) as service:
        with toys.client_of(service) as client:
            body = {"model": "tiny", "input": "hello", "response_format": "pcm"}
            for size in (20, 21):
                text = "a" + "b " * 9 + "c" * (size - 19)
                answer = client.post("/v1/audio/speech", json={**body, field: text})
                assert answer.status_code == (status if size == 20 else 413)
                if size == 21:
                    error = answer.json()["error"]
                    assert error["message"] == (
                        f"{field} has 21 characters; this server takes 20 at most."
                    )
                    assert (error["param"], error["code"]) == (field, "too_long")


@pytest.mark.parametrize(("before", "right"), [(0, True), (4091, True), (4092, False)])
def test_what_came_before_counts_too(service, before, right):
    if right:
        service.check_text("hello", "text", before)
    else:
        with pytest.raises(Refusal, match="text has 4097 characters"):
            service.check_text("hello", "text", before)


def test_a_spoken_request_has_a_line_of_what_it_took(service, lines, monkeypatch):
    with toys.client_of(service) as client:
        body = {"model": "both", "input": TEXT, "response_format": "pcm"}
        answer = client.post("/v1/audio/speech", json=body)
        client.post("/v1/audio/speech", json={**body, "input": "?!"})
    spoken = [facts for _, message, facts in lines() if message == "spoken"]
    seconds = len(answer.content) / 48_000
    assert (spoken[0]["arm"], spoken[0]["route"]) == ("tiny", "both")
    assert (spoken[0]["seconds"], spoken[0]["outcome"]) == (round(seconds, 2), "ok")
    assert isinstance(spoken[0]["first_ms"], int) and spoken[0]["first_ms"] >= 0
    assert (spoken[1]["first_ms"], spoken[1]["outcome"]) == (None, "invalid_value")


def test_figures_of_a_line_are_rounded_as_people_read_them(service, lines):
    choice = service.choose("tiny", "")

    async def scenario():
        job = service.job(choice, speech_routes.Order(TEXT, None, "", 0), None)
        course = job.course
        course.begun, course.spent, course.samples = 1.0, 1.23456, 29_760
        course.first_sound, course.failure = 0.0426, ""
        service._note(choice, job)
        course.first_sound, course.spent, course.failure = 0.0, 0.0, "cancelled"
        course.begun = time.monotonic() - 50.0
        service._note(choice, job)

    asyncio.run(scenario())
    (_, _, first), (_, _, second) = lines()
    assert first == {
        "arm": "tiny", "route": "", "seconds": 1.24, "spent": 1.235, "first_ms": 43,
        "outcome": "ok",
    }  # fmt: skip
    assert (second["first_ms"], second["outcome"]) == (0, "cancelled")
    assert 50.0 <= second["spent"] < 60.0


def test_a_log_that_cannot_be_written_costs_a_warning_and_no_answer(tmp_path, lines):
    service = toys.make_service(tmp_path, settings={"log": True})
    with toys.closing(service), toys.client_of(service) as client:
        (tmp_path / "items.jsonl").mkdir()
        body = {"model": "tiny", "input": TEXT, "response_format": "pcm"}
        assert client.post("/v1/audio/speech", json=body).status_code == 200
    warned = [message for level, message, _ in lines() if level == "WARNING"]
    assert warned == ["the log cannot be written: Is a directory"]


def test_a_failure_is_named_in_the_log_alone(tmp_path, lines):
    with toys.closing(toys.make_service(tmp_path)) as service:
        service.arms["tiny"].server.pool.step = lambda *arguments: 1 / 0
        with toys.client_of(service) as client:
            body = {"model": "tiny", "input": TEXT}
            error = client.post("/v1/audio/speech", json=body).json()["error"]
    assert (error["message"], error["code"]) == ("The speech could not be made.", "internal")
    warned = [message for level, message, _ in lines() if level == "WARNING"]
    assert warned == ["a request failed: ZeroDivisionError: division by zero"]


def test_a_service_that_closes_waits_for_nobody(tmp_path):
    import threading

    service = toys.make_service(tmp_path, slots=1)
    threads, go = service.arms["tiny"].threads, threading.Event()
    running, waiting = threads.submit(go.wait, 20), threads.submit(int)
    begin = time.monotonic()
    service.close()
    assert time.monotonic() - begin < 5 and waiting.cancelled() and not running.done()
    go.set()


def test_idle_means_that_nobody_is_inside_of_any_system(tmp_path):
    arms = [toys.arm("left"), toys.arm("right")]
    with toys.closing(toys.make_service(tmp_path, arms)) as service:
        assert service.is_idle and not service.is_draining
        for gate in (arm.gate for arm in arms):
            for name in ("inside", "used"):
                setattr(gate, name, 1)
                assert not service.is_idle
                setattr(gate, name, 0)
        service.drain()
        assert service.is_draining and all(arm.gate._closed for arm in arms)


def test_the_state_of_each_gate_is_on_the_page():
    gates = {"a": Gate(3, 1), "b": Gate(5, 2)}
    gates["a"].used, gates["a"].inside = 2, 4
    text = Gauges(gates).text().decode()
    for line in (
        'wishbone_slots{system="a"} 3.0', 'wishbone_slots{system="b"} 5.0',
        'wishbone_slots_used{system="a"} 2.0', 'wishbone_requests_inside{system="a"} 4.0',
        'wishbone_queue{system="b"} 0.0',
    ):  # fmt: skip
        assert line in text.splitlines()


def test_requests_fall_into_the_buckets_that_dashboards_ask_for():
    """Names of buckets are stored in queries of others: another border would empty them."""
    gauges = Gauges({})
    for first, factor in ((0.05, 0.05), (0.051, 0.11), (9.0, 3.9), (30.0, 4.0), (31.0, 4.1)):
        gauges.observe(Entry("r", "x", "a", "", 0, "", "", 1.0, factor, first, ""))
    gauges.observe(Entry("r", "x", "a", "", 0, "", "", 2.0, 9.0, None, "error"))
    counts = {}
    for line in gauges.text().decode().splitlines():
        if "_bucket{" in line:
            name, _, rest = line.partition("_bucket{le=")
            counts.setdefault(name, {})[rest.split('"')[1]] = float(line.split()[-1])
    first = counts["wishbone_first_sound_seconds"]
    assert list(first) == [
        "0.05", "0.1", "0.2", "0.3", "0.5", "0.75", "1.0", "1.5", "2.5", "5.0", "10.0", "30.0",
        "+Inf",
    ]  # fmt: skip
    assert (first["0.05"], first["0.1"], first["10.0"], first["30.0"], first["+Inf"]) == (
        1, 2, 3, 4, 5,
    )  # fmt: skip
    factor = counts["wishbone_real_time_factor"]
    assert list(factor) == [
        "0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.8", "1.0", "1.5", "2.0", "4.0", "+Inf",
    ]  # fmt: skip
    assert (factor["0.05"], factor["0.1"], factor["0.2"], factor["4.0"]) == (1, 1, 2, 4)
    text = gauges.text().decode()
    assert 'wishbone_audio_seconds_total{route="x",system="a"} 7.0' in text
    assert 'outcome="error",route="x",system="a"} 1.0' in text


def test_a_state_is_for_programs_of_any_kind(service):
    app = create_app(service)
    metrics = asyncio.run(Caller(app, b"", "/metrics", "GET").run())
    kind = metrics.answer_headers[b"content-type"]
    assert kind.startswith(b"text/plain; version=0.0.4") and b"process_cpu" in metrics.parts[0]
    health = asyncio.run(Caller(app, b"", "/health", "GET").run())
    assert (health.status, json.loads(health.parts[0])) == (200, {"status": "ok"})
