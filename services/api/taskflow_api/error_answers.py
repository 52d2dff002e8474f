"""Which answer each error is: the one place where errors and statuses meet."""

from collections.abc import Callable, Mapping
from typing import Any

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
from taskflow_api.problems import ProblemKind
from taskflow_api.ranges import RangeNotSatisfiable
from taskflow_api.users.errors import RegistrationClosed, SignInRefused


def problem_of(error: TaskFlowError) -> tuple[ProblemKind, dict[str, Any]]:
    """The kind of problem that an error is, and what else `problem_response` is given of it.

    Raises:
        TaskFlowError: the error itself, if it is none that a client is told.
    """
    known = next((_ANSWERS[name] for name in type(error).__mro__ if name in _ANSWERS), None)
    if known is None:
        raise error
    kind, particulars = known
    return kind, {"detail": str(error)} | particulars(error)


def _nothing_more(_error: TaskFlowError) -> dict[str, Any]:
    return {}


def _of_unavailable(error: ServiceUnavailable) -> dict[str, Any]:
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
