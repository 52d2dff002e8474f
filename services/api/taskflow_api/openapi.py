"""The OpenAPI document. `python -m taskflow_api.openapi [FILE]` writes it to docs/openapi.json."""

import json
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from taskflow.access.schemas import ApiKeyPatch, ApiKeyRequest, ApiKeyRotation
from taskflow.jobs.schemas import JobPatch, JobRequest
from taskflow_api.batch_schemas import BatchRequest
from taskflow_api.examples import EXAMPLES
from taskflow_api.problem_docs import door_docs
from taskflow_api.problems import Problem
from taskflow_api.routes import all_routes
from taskflow_api.users.schemas import RegistrationRequest, TokenRequest

_DESCRIPTION = """\
TaskFlow runs jobs: post one, and it is kept, run by a worker, and its state, result and log can
be read here.

**Authentication**: `X-API-Key: <key>`, or `Authorization: Bearer` with a key or with an access
token, which `POST /api/v1/auth/token` gives for a password. Each operation needs
one scope, which `security` names beside its schemes: `jobs:read`, `jobs:write`, or `admin`, which
holds all the others. Who lacks it is told so by a 403. `queues:write` is reserved: keys may have
it, and no operation needs it yet.

**Problems**: every answer from 400 up is `application/problem+json` (RFC 9457). Programs go by
`code`; `errors` names what is wrong with a request by JSON pointers: into the body, or with
`/path/…` and `/query/…` into the address. An id that is no UUID, and a parameter of a list that is
misspelt, are a 422.

**Times** are RFC 3339 in UTC, durations are in the unit that their name carries, ids are UUIDv7.

**Answers** carry `X-Request-ID`, which may be chosen by the client, and with a key `RateLimit` and
`RateLimit-Policy`: how many requests the tenant and the key have left.
"""
_TAGS = [
    {"name": "jobs", "description": "Submit, read, change, cancel, retry, delete."},
    {"name": "logs", "description": "What jobs have logged."},
    {"name": "workers", "description": "The consumers that run jobs."},
    {"name": "job types", "description": "What consumers have registered."},
    {"name": "users", "description": "Register, get tokens, sign out."},
    {"name": "API keys", "description": "Who may do what: keys, their scopes and their ends."},
    {"name": "audit log", "description": "Who did what."},
    {"name": "health", "description": "Is the service well? Needs no key."},
]
_REF = "#/components/schemas/{model}"


@cache
def openapi_json() -> str:
    """The document as JSON text, made once."""
    document = get_openapi(
        title="TaskFlow",
        version=version("taskflow-api"),
        openapi_version="3.1.0",
        summary="Jobs over HTTP.",
        description=_DESCRIPTION,
        routes=all_routes(),
        tags=_TAGS,
        servers=[{"url": "/", "description": "This server"}],
    )
    schemas = document["components"]["schemas"]
    schemas |= _models_read_by_hand()
    # What FastAPI documents for its own errors, which no answer here has the form of.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    _add_examples(document)
    _add_door(document)
    _simplify_parameters(document)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


_READ_BY_HAND = (
    JobRequest,
    BatchRequest,
    JobPatch,
    ApiKeyRequest,
    ApiKeyPatch,
    ApiKeyRotation,
    RegistrationRequest,
    TokenRequest,
    Problem,
)


def _models_read_by_hand() -> dict[str, Any]:
    """The schemas of bodies that routes read themselves, and of the problems."""
    models = [(model, "validation") for model in _READ_BY_HAND]
    _, definitions = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    found: dict[str, Any] = definitions["$defs"]
    return found


def _add_examples(document: dict[str, Any]) -> None:
    """Give each answer the example of its model."""
    for item in document["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                content = response.get("content", {}).get("application/json")
                if content is not None:
                    model = content["schema"]["$ref"].rpartition("/")[2]
                    content["example"] = EXAMPLES[model]


def _add_door(document: dict[str, Any]) -> None:
    """What any operation may be refused with; each is written down once."""
    shared = document["components"]["responses"] = {}
    for kind, response in door_docs():
        shared[kind.code] = response
        reference = {"$ref": f"#/components/responses/{kind.code}"}
        for item in document["paths"].values():
            for operation in item.values():
                operation["responses"].setdefault(str(kind.status), reference)


def _simplify_parameters(document: dict[str, Any]) -> None:
    """A parameter that may be left out is still never null."""
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                schema = parameter["schema"]
                kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
                if kinds:
                    [kind] = kinds
                    schema |= kind


if __name__ == "__main__":
    Path(*sys.argv[1:2] or ("docs/openapi.json",)).write_text(openapi_json(), encoding="utf-8")
