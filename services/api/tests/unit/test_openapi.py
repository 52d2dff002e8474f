"""The document that describes the service: complete, true to the routes, and written down."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from taskflow.access import schemas as access_schemas
from taskflow.jobs import schemas
from taskflow_api import batch_schemas, health
from taskflow_api.examples import EXAMPLES
from taskflow_api.guards import OPEN_OPERATIONS, refuse_unguarded
from taskflow_api.openapi import openapi_json
from taskflow_api.routes import all_routes
from taskflow_api.routes import health as health_routes
from taskflow_api.users import schemas as user_schemas

DOCUMENT: dict[str, Any] = json.loads(openapi_json())
OPERATIONS = [
    (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
ids = [operation["operationId"] for _, _, operation in OPERATIONS]
each_operation = pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=ids)


def test_the_document_is_written_down(pytestconfig: pytest.Config) -> None:
    written = (pytestconfig.rootpath / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert written == openapi_json(), "run: python -m taskflow_api.openapi"


def test_operations_have_names_of_their_own() -> None:
    assert len(set(ids)) == len(ids)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_what_is_not_built_yet_is_not_described() -> None:
    words = ("redrive", "explain", "artifacts", "stream", "metrics", "queues")
    assert [path for path in DOCUMENT["paths"] for word in words if word in path] == []
    assert "callback_url" not in openapi_json()


@each_operation
def test_an_operation_is_described_with_an_example(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    described = list(contents(operation)) or operation.get("parameters", [])
    assert described or set(operation["responses"]) & {"204"}
    assert all(has_example(content) for content in described)


@each_operation
def test_an_operation_tells_its_problems(method: str, path: str, operation: dict[str, Any]) -> None:
    statuses = set(operation["responses"])
    expected = {"400", "414", "421", "429", "431", "500"}
    if (method.upper(), path) not in OPEN_OPERATIONS:
        expected |= {"401", "403", "503"}
        schemes = {next(iter(scheme)) for scheme in operation["security"]}
        assert schemes == {"ApiKey", "Bearer", "User"}
    if "_id}" in path:
        expected |= {"404", "422"}
    if "requestBody" in operation:
        expected |= {"400", "413", "415", "422"}
        assert operation["requestBody"]["required"]
    assert expected <= statuses
    for status, documented in operation["responses"].items():
        if status >= "400":
            response = resolved(documented)
            assert list(response["content"]) == ["application/problem+json"]
            assert has_example(response["content"]["application/problem+json"])


@each_operation
def test_a_body_has_what_is_described_and_nothing_else(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content["schema"]["$ref"].rpartition("/")[2]
        assert DOCUMENT["components"]["schemas"][name]["additionalProperties"] is False


def resolved(response: dict[str, Any]) -> dict[str, Any]:
    """The answer itself, where it is written down once for all operations."""
    if "$ref" not in response:
        return response
    found: dict[str, Any] = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return found


def contents(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The forms of what is sent and of what is answered when all is well."""
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for status, response in operation["responses"].items():
        if status < "400":
            yield from response.get("content", {}).values()


def has_example(content: dict[str, Any]) -> bool:
    schema = content["schema"]
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return any(content.get(name) or schema.get(name) for name in ("example", "examples"))


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    known = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses")
        for name in DOCUMENT["components"][kind]
    }
    assert set(references(DOCUMENT)) == known


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_its_model_shows(name: str) -> None:
    model: type[BaseModel] = (
        getattr(schemas, name, None)
        or getattr(batch_schemas, name, None)
        or getattr(user_schemas, name, None)
        or getattr(access_schemas, name, None)
        or getattr(health_routes, name, None)
        or getattr(health, name)
    )
    shown = json.loads(model.model_validate(EXAMPLES[name]).model_dump_json(exclude_unset=True))
    assert shown == EXAMPLES[name]


def test_a_route_without_a_scope_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unguarded(all_routes())
    monkeypatch.setattr("taskflow_api.guards.OPEN_OPERATIONS", frozenset())
    with pytest.raises(RuntimeError, match="scope"):
        refuse_unguarded(all_routes())


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/docs", "text/html"),
        ("/redoc", "text/html"),
        ("/openapi.json", "application/json"),
        ("/docs-assets/swagger-ui-bundle.js", "text/javascript"),
        ("/docs-assets/swagger-ui.css", "text/css"),
        ("/docs-assets/redoc.standalone.js", "text/javascript"),
        ("/docs-assets/start-swagger.js", "text/javascript"),
    ],
)
async def test_the_documentation_needs_neither_key_nor_internet(
    api: httpx.AsyncClient, path: str, media_type: str
) -> None:
    del api.headers["X-API-Key"]
    answer = await api.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(media_type)
    if media_type == "text/html":
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert (
            "'unsafe-inline'" not in answer.headers["Content-Security-Policy"].partition("style")[0]
        )
