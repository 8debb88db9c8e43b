"""The OpenAPI document says what a replica takes and gives: schemathesis asks all that it allows, and more."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.openapi.checks import JsonSchemaError
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from inference import openapi, server
from inference.service import Service, Settings
from tests.inference.sleeper import SleepingReplica

pytest_plugins = ("schemathesis.pytest.plugin",)  # it makes the tests of `parametrize`

PAGE = Path(__file__).parents[1] / "pages" / "nameplate.png"
#: an answer to nonsense is 4xx of a known kind, and every answer is what the document says
TOLD = [status_code_conformance, content_type_conformance, response_schema_conformance]

#: for people, in a browser: with the extra `ui` the page and the way to it, without it what says that it is missing
PAGE_ROUTES = {"/", "/ui", "/ui/{rest:path}"}
#: says the same as another route, or is the document itself
ALIASES = {"/openapi.json", "/v2/"}

api = schemathesis.openapi.from_dict(openapi.document("1", "sleeper"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    replica = SleepingReplica(0.0)
    yield replica.url.removesuffix("/v1/ocr")
    replica.kill()


@pytest.mark.slow
@api.exclude(path="/drain").parametrize()
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_nothing_that_may_be_asked_is_a_500(case: schemathesis.Case, url: str) -> None:
    answer = case.call(base_url=url, timeout=60)
    assert answer.status_code not in (500, 503)  # it is ready, and has memory
    case.validate_response(answer, checks=TOLD)


def test_a_page_is_what_the_document_says(url: str) -> None:
    served = schemathesis.openapi.from_url(f"{url}/openapi.json")
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        answer = client.post("/v1/ocr", files={"file": PAGE.read_bytes()}, data={"fields": "model"})
    assert answer.status_code == 200
    answer.request.read()
    served["/v1/ocr"]["POST"].validate_response(answer)
    wrong = httpx.Response(200, json={"text": "another shape"}, request=answer.request)
    wrong.elapsed = answer.elapsed
    with pytest.raises(JsonSchemaError, match="violates schema"):
        served["/v1/ocr"]["POST"].validate_response(wrong)


def test_every_way_in_is_described() -> None:
    routes = server.app(Service(Settings()), failed=lambda error: None).routes
    served = {getattr(route, "path", "") for route in routes}
    assert {*openapi.document("1", "sleeper")["paths"]} == served - PAGE_ROUTES - ALIASES


def test_a_drained_replica_says_so() -> None:
    replica = SleepingReplica(0.0)
    base = replica.url.removesuffix("/v1/ocr")
    try:
        served = schemathesis.openapi.from_url(f"{base}/openapi.json")
        answer = httpx.post(f"{base}/drain", trust_env=False, timeout=60)
        served["/drain"]["POST"].validate_response(answer)
        assert answer.json()["status"] == "draining"
        refused = httpx.post(replica.url, content=PAGE.read_bytes(), trust_env=False, timeout=60)
        assert refused.status_code == 503
        served["/v1/ocr"]["POST"].validate_response(refused)
    finally:
        replica.kill()
