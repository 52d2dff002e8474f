"""Which answer each error is: the one place where errors and statuses meet."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from taskflow.access.errors import ApiKeyConflict, ApiKeyNotFound
from taskflow.errors import (
    IdempotencyKeyReused,
    InvalidContent,
    JobNotFound,
    JobStateConflict,
    QuotaExceeded,
    SchemaBehind,
    ServiceUnavailable,
    TaskFlowError,
    UnknownJobType,
    VersionMismatch,
)
from taskflow.jobs.cursors import InvalidCursor
from taskflow_api import problems
from taskflow_api.auth import REALM
from taskflow_api.job_type_rights import JobTypeNotAllowed
from taskflow_api.problems import (
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ProblemError,
    ProblemKind,
    problem_response,
)
from taskflow_api.ranges import RangeNotSatisfiable
from taskflow_api.routes import all_routes
from taskflow_api.users.errors import RegistrationClosed, SignInRefused
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
    known = next((_ANSWERS[name] for name in type(error).__mro__ if name in _ANSWERS), None)
    if known is None:
        raise error
    kind, particulars = known
    return problem_response(request.scope, kind, **{"detail": str(error)} | particulars(error))


def _nothing_more(_error: TaskFlowError) -> dict[str, Any]:
    return {}


def _of_unavailable(error: ServiceUnavailable) -> dict[str, Any]:
    # Why is told to the log: it names addresses.
    log.warning("service_unavailable", service=error.service, error=str(error))
    return {
        "detail": f"{error.service} is not available at the moment. Try again.",
        "headers": {"Retry-After": str(error.retry_after_seconds)},
    }


def _of_schema_behind(_error: SchemaBehind) -> dict[str, Any]:
    return {"headers": {"Retry-After": "5"}}


def _of_content(error: InvalidContent) -> dict[str, Any]:
    return {"errors": error.problems}


def _of_job_type(error: UnknownJobType) -> dict[str, Any]:
    return {"errors": [("/type", f"The job type {error.job_type!r} is not known.")]}


def _of_cursor(error: InvalidCursor) -> dict[str, Any]:
    return {"errors": [("/query/cursor", str(error))]}


def _of_state(error: JobStateConflict) -> dict[str, Any]:
    return {"state": error.state}


def _of_sign_in(error: SignInRefused) -> dict[str, Any]:
    # What clients of OAuth look at (RFC 6749, section 5.2).
    return {
        "headers": {"WWW-Authenticate": REALM},
        "error": "invalid_grant",
        "error_description": str(error),
    }


def _of_quota(error: QuotaExceeded) -> dict[str, Any]:
    return {
        "quota": error.quota,
        "limit": error.limit,
        "use": error.use,
        "headers": {"Retry-After": str(error.retry_after_seconds)},
    }


def _of_range(error: RangeNotSatisfiable) -> dict[str, Any]:
    return {"headers": {"Content-Range": f"bytes */{error.total_bytes}"}}


_ANSWERS: Mapping[type, tuple[ProblemKind, Callable[[Any], dict[str, Any]]]] = {
    JobNotFound: (problems.JOB_NOT_FOUND, _nothing_more),
    JobStateConflict: (problems.JOB_STATE_CONFLICT, _of_state),
    ApiKeyNotFound: (problems.API_KEY_NOT_FOUND, _nothing_more),
    ApiKeyConflict: (problems.API_KEY_CONFLICT, _nothing_more),
    VersionMismatch: (problems.VERSION_MISMATCH, _nothing_more),
    IdempotencyKeyReused: (problems.IDEMPOTENCY_KEY_REUSED, _nothing_more),
    JobTypeNotAllowed: (problems.JOB_TYPE_NOT_ALLOWED, _nothing_more),
    UnknownJobType: (problems.UNKNOWN_JOB_TYPE, _of_job_type),
    InvalidContent: (problems.INVALID_CONTENT, _of_content),
    InvalidCursor: (problems.INVALID_CURSOR, _of_cursor),
    QuotaExceeded: (problems.QUOTA_EXCEEDED, _of_quota),
    RangeNotSatisfiable: (problems.RANGE_NOT_SATISFIABLE, _of_range),
    SchemaBehind: (problems.SERVICE_UNAVAILABLE, _of_schema_behind),
    SignInRefused: (problems.SIGN_IN_REFUSED, _of_sign_in),
    RegistrationClosed: (problems.REGISTRATION_CLOSED, _nothing_more),
    ServiceUnavailable: (problems.SERVICE_UNAVAILABLE, _of_unavailable),
}
"""The kind of problem that each error is, and what its answer says beside the error's text."""


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what Starlette calls it with
    if _is_anothers_address(request):
        return _no_such_method(request)
    detail = "The address has parts or parameters that are not acceptable."
    return problem_response(
        request.scope, problems.INVALID_CONTENT, detail, errors=problems_of(error.errors())
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
