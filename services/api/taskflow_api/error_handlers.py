"""Every error that a route or the framework raises becomes a problem document here."""

from collections.abc import Mapping
from uuid import UUID

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from taskflow.errors import ServiceUnavailable, TaskFlowError
from taskflow_api.error_answers import problem_of
from taskflow_api.problems import (
    INVALID_CONTENT,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ProblemError,
    ProblemKind,
    problem_response,
)
from taskflow_api.routes import all_routes
from taskflow_api.validation_problems import problems_of

log = structlog.get_logger(__name__)


def install_error_handlers(app: FastAPI) -> None:
    """Make every error that a route or the framework raises a problem document."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(TaskFlowError, _on_taskflow_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101 - what Starlette calls it with
    return problem_response(
        request.scope, error.kind, error.detail, errors=error.errors, headers=error.headers
    )


async def _on_taskflow_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TaskFlowError)  # noqa: S101 - what Starlette calls it with
    kind, members = problem_of(error)
    if isinstance(error, ServiceUnavailable):
        # Why is told to the log: it names addresses.
        log.warning("service_unavailable", service=error.service, error=str(error))
    return problem_response(request.scope, kind, **members)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what Starlette calls it with
    if _is_anothers_address(request):
        return _no_such_method(request)
    detail = "The address has parts or parameters that are not acceptable."
    return problem_response(
        request.scope, INVALID_CONTENT, detail, errors=problems_of(error.errors())
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what Starlette calls it with
    if error.status_code == METHOD_NOT_ALLOWED.status:
        return _no_such_method(request)
    if error.status_code == NOT_FOUND.status:
        return _nothing_there(request)
    kind = ProblemKind("http_error", error.status_code, "The request can't be served")
    return problem_response(request.scope, kind, error.detail, headers=error.headers)


def _is_anothers_address(request: Request) -> bool:
    """Whether `/jobs/stats` was taken for a job's id, because its own route has no such method."""
    found = [route.methods for route in all_routes() if route.path == request.scope["path"]]
    return bool(found) and not any(request.method in (methods or ()) for methods in found)


def _nothing_there(request: Request) -> Response:
    return problem_response(request.scope, NOT_FOUND, "There is nothing at this address.")


def _no_such_method(request: Request) -> Response:
    """405 with every method of the address; 404 where only a pattern for ids happened to match."""
    methods: set[str] = set()
    # Without what a route has matched already.
    scope = dict(request.scope, path_params={})
    for route in all_routes():
        match, matched = route.matches(scope)
        if match is not Match.NONE and _could_exist(matched["path_params"]):
            methods |= route.methods or set()
    if not methods:
        return _nothing_there(request)
    if "GET" in methods:
        methods.add("HEAD")
    allow = ", ".join(sorted(methods))
    detail = f"The methods of this address are {allow}."
    return problem_response(request.scope, METHOD_NOT_ALLOWED, detail, headers={"Allow": allow})


_ID_PARAMS = {"job_id", "api_key_id"}


def _could_exist(path_params: Mapping[str, str]) -> bool:
    try:
        for name in path_params.keys() & _ID_PARAMS:
            UUID(path_params[name])
    except ValueError:
        return False
    return True
