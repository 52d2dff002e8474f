"""CORS: which pages of other origins may read answers in a browser."""

from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow_api.problems import ORIGIN_NOT_ALLOWED, problem_response

_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
_SENT = (
    "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match",
    "Last-Event-ID", "Prefer", "Range", "X-API-Key", "X-Request-ID",
)  # fmt: skip
_SHOWN = (
    "Content-Range", "ETag", "Idempotent-Replayed", "Location", "Preference-Applied", "RateLimit",
    "RateLimit-Policy", "Retry-After", "WWW-Authenticate", "X-Request-ID",
)  # fmt: skip


class CrossOriginMiddleware(CORSMiddleware):
    """Answers preflights, and marks answers for the origins of a list. No cookies are let along."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        """`origins` are like `https://example.com`."""
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_SHOWN,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _is_preflight(scope):
            await super().__call__(scope, receive, send)
            return
        answer = self.preflight_response(Headers(scope=scope))
        if answer.status_code != HTTPStatus.OK:
            answer = problem_response(scope, ORIGIN_NOT_ALLOWED, f"{bytes(answer.body).decode()}.")
        await answer(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    headers = {name for name, _ in scope["headers"]}
    return scope["method"] == "OPTIONS" and headers >= {b"origin", b"access-control-request-method"}
