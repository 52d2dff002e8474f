"""The outermost layer: a request's id and client, its one log line, its last resort."""

import asyncio
import itertools
import re
import time
from collections.abc import Iterable
from typing import cast

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from taskflow_api.added_headers import added_headers
from taskflow_api.client_address import TrustedProxies, client_address
from taskflow_api.problems import INTERNAL_ERROR, SERVICE_UNAVAILABLE, problem_response

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_GONE = 499
"""What the log shows where the client left before it was answered."""

_FIRST_SERVER_ERROR = 500
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_PROBES = frozenset({"/healthz", "/readyz"})
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}
"""On every answer that doesn't set them itself."""

_SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_SECURITY_NAMES = frozenset(name for name, _ in _SECURITY)
_TRANSPORT_SECURITY = (b"strict-transport-security", f"max-age={365 * 86_400}".encode())
_REQUEST_ID_NAME = REQUEST_ID_HEADER.lower().encode()
_ENDS_A_HEADER = re.compile(rb"[\r\n\x00]")

log = structlog.get_logger(__name__)


class RequestContextMiddleware:
    """Names the request, logs how it ended, and lets no exception out."""

    def __init__(self, app: ASGIApp, *, proxies: TrustedProxies) -> None:
        """`proxies` are believed about who the client is."""
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        client = self._proxies.client_of(scope)
        scope.setdefault("state", {}).update(request_id=request_id, client=client)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(scope, send, request_id, is_secure=client.scheme == "https")
        began = time.perf_counter()
        try:
            await self._serve(scope, receive, answer)
        finally:
            _log(scope, answer.status, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = answer.status or CLIENT_GONE
        except asyncio.CancelledError:
            # The process stops and can't wait for this any longer; the server would make it a 500.
            if answer.started:
                raise
            detail = "The service is stopping. What was asked for may have been done."
            stopping = problem_response(
                scope, SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"}
            )
            await stopping(scope, receive, answer.send)
        except Exception:
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            if answer.started:
                # Too late for an answer: let the server cut the connection, so that the client
                # doesn't take a part for the whole.
                raise
            detail = "It is logged under the request_id of this answer."
            await problem_response(scope, INTERNAL_ERROR, detail)(scope, receive, answer.send)


class _Answer:
    """Watches the answer go out, and adds what every answer has, and what others have for it."""

    def __init__(self, scope: Scope, send: Send, request_id: str, *, is_secure: bool) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._is_secure = is_secure
        self.status = 0

    @property
    def started(self) -> bool:
        return self.status != 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *added_headers(self._scope)]
            _refuse_injection(headers)
            self.status = message["status"]
            named = {name for name, _ in headers}
            added = (
                _SECURITY
                if named.isdisjoint(_SECURITY_NAMES)
                else [each for each in _SECURITY if each[0] not in named]
            )
            message["headers"] = [
                *headers,
                (_REQUEST_ID_NAME, self._request_id.encode()),
                *added,
            ]
            if self._is_secure:
                message["headers"].append(_TRANSPORT_SECURITY)
        await self._send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return cast("bytes", value).decode()
    return str(uuid7())


def _refuse_injection(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """The server writes headers as they are: one with a line's end would be several."""
    if not _ENDS_A_HEADER.search(b"".join(itertools.chain.from_iterable(headers))):
        return
    for name, value in headers:
        if _ENDS_A_HEADER.search(name) or _ENDS_A_HEADER.search(value):
            raise ValueError(f"the header {name!r} has a character that ends it")


def _log(scope: Scope, status: int, seconds: float) -> None:
    if status >= _FIRST_SERVER_ERROR:
        tell = log.warning
    else:
        tell = log.debug if scope["path"] in _PROBES else log.info
    tell(
        "http_request",
        method=scope["method"],
        path=scope["path"],
        client=client_address(scope),
        status=status or CLIENT_GONE,
        ms=round(seconds * 1000, 1),
    )
