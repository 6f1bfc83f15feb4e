"""The OpenAPI document and the server agree, by requests that schemathesis makes of the document.

``WISHBONE_FUZZ=2000`` tries so many for all operations together; CI a few.
"""

import os

import pytest
import serving_toys as toys

schemathesis = pytest.importorskip("schemathesis", reason="the extra 'dev' is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="the extra 'dev' is not installed")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from wishbone.core.serve.settings import Route  # noqa: E402
from wishbone.core.serve.web import failures  # noqa: E402
from wishbone.core.serve.web.app import create_app  # noqa: E402

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip
OPERATIONS = [
    ("GET", "/v1/models"), ("GET", "/v1/models/{name}"), ("POST", "/v1/audio/speech"),
    ("GET", "/v1/audio/voices"), ("POST", "/v1/audio/voices"), ("GET", "/v1/audio/voices/{name}"),
    ("DELETE", "/v1/audio/voices/{name}"), ("GET", "/v1/votes"), ("POST", "/v1/votes"),
    ("GET", "/ab"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
]  # fmt: skip
MODES = {"that fits": GenerationMode.POSITIVE, "that does not": GenerationMode.NEGATIVE}
TRIALS = int(os.environ.get("WISHBONE_FUZZ", "260"))
EACH = max(2, TRIALS // (len(OPERATIONS) * len(MODES)))
TRIED = hypothesis.settings(
    max_examples=EACH, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)  # fmt: skip
HEADERS = {"Host": "127.0.0.1:8880"}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("document")
    settings = {"routes": {"route": Route({"tiny": 1}, "cookie")}}
    service = toys.make_service(folder / "inside", settings=settings, characters=100)
    with toys.closing(service):
        schema = schemathesis.openapi.from_asgi(
            "/openapi.json", create_app(service), headers=HEADERS
        )
        schema.service, schema.folder = service, folder
        yield schema


def test_every_operation_of_the_document_is_tried(api):
    operations = [result.ok() for result in api.get_all_operations()]
    assert sorted((each.method.upper(), each.path) for each in operations) == sorted(OPERATIONS)


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_document_says_is_what_the_server_does(api, method, path, kind):
    operation = api[path][method]
    checks = CHECKS if kind == "that fits" else [*CHECKS, negative_data_rejection]
    tried = []

    @hypothesis.given(case=operation.as_strategy(generation_mode=MODES[kind]))
    @TRIED
    def ask(case):
        tried.append(case)
        case.validate_response(case.call(headers=HEADERS), checks=checks)

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        pytest.skip("nothing that does not fit can be sent to it")
    assert tried and api.service.is_idle
    assert [each.name for each in api.folder.iterdir() if each.name != "inside"] == []


def test_errors_and_answers_that_the_document_does_not_know_are_seen(api, monkeypatch):
    """Negative control of the checks."""
    case = api["/v1/votes"]["GET"].Case()
    with monkeypatch.context() as broken:
        broken.setattr(api.service.votes, "tally", lambda: 1 / 0)
        with pytest.raises(BaseExceptionGroup):
            case.validate_response(case.call(headers=HEADERS), checks=CHECKS)
    monkeypatch.setattr(failures, "SOMEWHERE", {})
    app = create_app(api.service)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    case = schema["/v1/models/{name}"]["GET"].Case(path_parameters={"name": "nobody"})
    with pytest.raises(BaseExceptionGroup, match="status code"):
        case.validate_response(case.call(headers=HEADERS), checks=CHECKS)
