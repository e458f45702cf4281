"""The OpenAPI document against the running surface: generated requests, good and bad, get answers as it says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support_web import TOKEN, serving

from claude_jobs.errors import InvalidRequest
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_request import GenerateRequest

schemathesis: Any = import_module("schemathesis")  # it has no complete types
_checks: Any = import_module("schemathesis.specs.openapi.checks")


def no_fault_of_ours(context: Any, response: Any, case: Any) -> None:
    """Providers may fail and time may run out (502 to 504); we may not."""
    assert response.status_code != 500, response.text


CHECKS = [
    no_fault_of_ours,
    _checks.status_code_conformance,
    _checks.content_type_conformance,
    _checks.response_schema_conformance,
]
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
UNHURRIED = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The surface on a loop and thread of its own: schemathesis calls synchronously."""
    ready, over = threading.Event(), asyncio.Event()
    found: list[str] = []
    loop = asyncio.new_event_loop()

    async def serve(root: Path) -> None:
        async with serving(root, USE_LOCAL_LLM="true", REQUEST_TIMEOUT="5", MAX_RETRIES="0") as served:
            found.append(served.http.url)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(tmp_path_factory.mktemp("web"))))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def api(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}openapi.json", headers=AUTHORIZED)


OPERATIONS = [
    ("get", "/health"),
    ("post", "/tools/generate"),
    ("post", "/tools/batch_generate"),
    ("post", "/tools/count_tokens"),
    ("get", "/tools/list_models"),
    ("post", "/tools/list_models"),
    ("post", "/v1/chat/completions"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{id}"),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_documented(api: Any, method: str, path: str) -> None:
    @given(case=api[path][method].as_strategy())
    @settings(max_examples=20, deadline=None, phases=(Phase.generate,), suppress_health_check=UNHURRIED)
    def ask(case: Any) -> None:
        case.call_and_validate(headers=AUTHORIZED, checks=CHECKS, timeout=120)

    ask()


def test_generated_requests_are_often_good_ones(api: Any) -> None:
    """Else the test above would only look at refusals."""
    taken: list[bool] = []

    @given(case=api["/tools/generate"]["post"].as_strategy())
    @settings(
        max_examples=60, deadline=None, phases=(Phase.generate,), suppress_health_check=UNHURRIED, derandomize=True
    )
    def look(case: Any) -> None:
        try:
            GenerateRequest.parse(case.body).ask(Caller(cwd="/", submitter="uid:1"))
            taken.append(True)
        except InvalidRequest:
            taken.append(False)

    look()

    assert sum(taken) >= 5


def test_every_operation_is_asked(api: Any) -> None:
    paths = api.raw_schema["paths"].items()

    assert [(method, path) for path, methods in paths for method in methods] == OPERATIONS


def test_the_document_is_openapi_and_its_schemas_are_schemas(api: Any) -> None:
    api.validate()
    for part in api.raw_schema["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(part)
