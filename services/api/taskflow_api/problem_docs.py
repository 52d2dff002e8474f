"""The documentation of bodies and problems, for what FastAPI can't derive from a signature."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from taskflow_api.problems import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    INSUFFICIENT_SCOPE,
    INTERNAL_ERROR,
    MEDIA_TYPE,
    NOT_AUTHENTICATED,
    SERVICE_UNAVAILABLE,
    TOO_MANY_REQUESTS,
    UNKNOWN_HOST,
    URI_TOO_LONG,
    ProblemKind,
)

Responses = dict[int | str, dict[str, Any]]

_REQUEST_ID = "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4a"
_HEADERS = {
    401: {"WWW-Authenticate": "How to authenticate."},
    403: {"WWW-Authenticate": "Which scope is needed."},
    405: {"Allow": "The methods of the address."},
    429: {
        "Retry-After": "Seconds after which to try again.",
        "RateLimit-Policy": '`"name";q=quota;w=seconds`.',
        "RateLimit": '`"name";r=remaining;t=seconds` until there are more.',
    },
    503: {"Retry-After": "Seconds after which to try again."},
}


_AT_THE_DOOR = (BAD_REQUEST, URI_TOO_LONG, UNKNOWN_HOST, TOO_MANY_REQUESTS, HEADERS_TOO_LARGE)


def door_docs() -> list[tuple[ProblemKind, dict[str, Any]]]:
    """The answers that any request may have before a route is found."""
    return [(kind, _response(kind.status, [kind])) for kind in _AT_THE_DOOR]


def problem_docs(*kinds: ProblemKind, public: bool = False) -> Responses:
    """The answers of an operation that are problems; those that any may have are added."""
    by_status: defaultdict[int, list[ProblemKind]] = defaultdict(list)
    guarded = () if public else (NOT_AUTHENTICATED, INSUFFICIENT_SCOPE, SERVICE_UNAVAILABLE)
    for kind in (*kinds, *guarded, INTERNAL_ERROR):
        by_status[kind.status].append(kind)
    return {status: _response(status, found) for status, found in sorted(by_status.items())}


def _response(status: int, kinds: list[ProblemKind]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": "; ".join(f"{kind.title} (`{kind.code}`)" for kind in kinds),
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {kind.code: {"value": _example(kind)} for kind in kinds},
            }
        },
    }
    if status in _HEADERS:
        response["headers"] = headers_doc(_HEADERS[status])
    return response


def _example(kind: ProblemKind) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "detail": "What was wrong this time, in words.",
        "instance": "/api/v1/jobs",
        "code": kind.code,
        "request_id": _REQUEST_ID,
    }
    if kind.status == 422:  # noqa: PLR2004
        example["errors"] = [{"pointer": "/payload/width", "detail": "is required"}]
    return example


def headers_doc(descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Headers of an answer: what they say, by name."""
    return {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in descriptions.items()
    }


def json_body_doc(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body that a route reads by itself; `openapi.py` adds the model to the components."""
    return {"requestBody": {"required": True, "content": {"application/json": _content(model)}}}


def form_body_doc(model: type[BaseModel]) -> dict[str, Any]:
    """The same, where it may also come as a form."""
    documented = json_body_doc(model)
    content = documented["requestBody"]["content"]
    content["application/x-www-form-urlencoded"] = _content(model)
    return documented


def _content(model: type[BaseModel]) -> dict[str, Any]:
    examples = model.model_json_schema().get("examples", [])
    return {
        "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
        "examples": {
            f"example_{number}": {"value": value} for number, value in enumerate(examples, start=1)
        },
    }
