"""Problem details (RFC 9457): the form of every answer from 400 up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Scope

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What can be wrong: a stable code, its status, and words that don't depend on the case."""

    code: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The kind's name as a URI, for `type`."""
        return f"urn:taskflow:problem:{self.code}"


MALFORMED_BODY = ProblemKind("malformed_body", 400, "The body is not JSON as it must be")
MALFORMED_HEADER = ProblemKind("malformed_header", 400, "A header is malformed")
BAD_REQUEST = ProblemKind("bad_request", 400, "The request is not HTTP as it must be")
NOT_AUTHENTICATED = ProblemKind("not_authenticated", 401, "A valid API key or token is required")
SIGN_IN_REFUSED = ProblemKind("sign_in_refused", 401, "The credentials are not right")
ORIGIN_NOT_ALLOWED = ProblemKind("origin_not_allowed", 403, "A page of this origin may not do this")
REGISTRATION_CLOSED = ProblemKind("registration_closed", 403, "Nobody may register")
NO_SESSION = ProblemKind("no_session", 403, "Only who has signed in can sign out")
JOB_TYPE_NOT_ALLOWED = ProblemKind(
    "job_type_not_allowed", 403, "The tenant may not have jobs of this type"
)
INSUFFICIENT_SCOPE = ProblemKind(
    "insufficient_scope", 403, "The key or token lacks the scope for this"
)
NOT_FOUND = ProblemKind("not_found", 404, "There is nothing at this address")
JOB_NOT_FOUND = ProblemKind("job_not_found", 404, "There is no such job")
ATTEMPT_NOT_FOUND = ProblemKind("attempt_not_found", 404, "The job has no such attempt")
JOB_TYPE_NOT_FOUND = ProblemKind("job_type_not_found", 404, "There is no such job type")
API_KEY_NOT_FOUND = ProblemKind("api_key_not_found", 404, "There is no such API key")
METHOD_NOT_ALLOWED = ProblemKind("method_not_allowed", 405, "The address has no such method")
NOT_ACCEPTABLE = ProblemKind("not_acceptable", 406, "The media type asked for is not offered")
REQUEST_TIMEOUT = ProblemKind("request_timeout", 408, "The request did not arrive in time")
JOB_STATE_CONFLICT = ProblemKind("job_state_conflict", 409, "The job's state doesn't allow this")
API_KEY_CONFLICT = ProblemKind("api_key_conflict", 409, "The API key's state doesn't allow this")
VERSION_MISMATCH = ProblemKind("version_mismatch", 412, "The job has changed")
BODY_TOO_LARGE = ProblemKind("body_too_large", 413, "The body is too large")
URI_TOO_LONG = ProblemKind("uri_too_long", 414, "The address is too long")
UNSUPPORTED_MEDIA_TYPE = ProblemKind("unsupported_media_type", 415, "The body must be JSON")
RANGE_NOT_SATISFIABLE = ProblemKind("range_not_satisfiable", 416, "The range lies outside")
UNKNOWN_HOST = ProblemKind("unknown_host", 421, "The service doesn't go by this name")
INVALID_CONTENT = ProblemKind("invalid_content", 422, "The content is not acceptable")
INVALID_CURSOR = ProblemKind("invalid_cursor", 422, "The cursor doesn't belong to this list")
UNKNOWN_JOB_TYPE = ProblemKind("unknown_job_type", 422, "The job type is not known")
IDEMPOTENCY_KEY_REUSED = ProblemKind(
    "idempotency_key_reused", 422, "The Idempotency-Key was used for another request"
)
QUOTA_EXCEEDED = ProblemKind("quota_exceeded", 429, "The tenant has as much as it may have")
TOO_MANY_REQUESTS = ProblemKind("too_many_requests", 429, "Too many requests")
HEADERS_TOO_LARGE = ProblemKind("headers_too_large", 431, "The headers are too large")
INTERNAL_ERROR = ProblemKind("internal_error", 500, "Something went wrong on this side")
SERVICE_UNAVAILABLE = ProblemKind("service_unavailable", 503, "A server behind this one is away")


class FieldProblem(BaseModel):
    """One member of the request, and what is wrong with it."""

    pointer: str = Field(
        description="A JSON pointer into the body (`/payload/width`); parts of the request line"
        " are under `/path/…` and `/query/…`."
    )
    detail: str


class Problem(BaseModel):
    """The body of every answer from 400 up."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="The kind of problem as a URI; a name, not an address.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request.")
    code: str = Field(description="The kind of problem, stable, for programs.")
    request_id: str
    errors: list[FieldProblem] = Field(default_factory=list)


class ItemProblem(BaseModel):
    """Why one item of a request was refused."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="The kind of problem as a URI; a name, not an address.")
    title: str
    status: int
    detail: str
    code: str = Field(description="The kind of problem, stable, for programs.")
    errors: list[FieldProblem]


class ProblemError(Exception):
    """Raised where a request can't be served; becomes the answer."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`errors` are (JSON pointer, detail)."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers


def problem_response(
    scope: Scope,
    kind: ProblemKind,
    detail: str,
    *,
    errors: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    **extensions: Any,
) -> Response:
    """The answer for a problem; `errors` are (JSON pointer, detail)."""
    problem = Problem(
        type=kind.uri,
        title=kind.title,
        status=kind.status,
        detail=_text(detail),
        instance=quote(scope["path"], safe="/-._~!$&'()*+,;=:@"),
        code=kind.code,
        request_id=scope.get("state", {}).get("request_id", ""),
        errors=_field_problems(errors),
        **extensions,
    )
    content = problem.model_dump_json(exclude=None if errors else {"errors"})
    return Response(
        content, status_code=kind.status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def item_problem(
    kind: ProblemKind, detail: str, errors: Sequence[tuple[str, str]], **extensions: Any
) -> ItemProblem:
    """The problem of an item whose request is answered all the same."""
    return ItemProblem(
        type=kind.uri,
        title=kind.title,
        status=kind.status,
        detail=_text(detail),
        code=kind.code,
        errors=_field_problems(errors),
        **extensions,
    )


def pointer_to(*tokens: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member: `/payload/a~1b/0`."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def _field_problems(errors: Sequence[tuple[str, str]]) -> list[FieldProblem]:
    return [FieldProblem(pointer=_text(at), detail=_text(text)) for at, text in errors]


def _text(text: str) -> str:
    """What quotes a request may hold halves of surrogate pairs, which no answer can."""
    return text.encode("utf-8", "backslashreplace").decode()
