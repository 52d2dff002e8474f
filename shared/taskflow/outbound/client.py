"""The one way by which TaskFlow calls a URL that a user has named."""

import asyncio
import logging
import ssl
import time
from contextlib import aclosing
from dataclasses import dataclass

import httpcore2

from taskflow.outbound.addresses import AddressRule
from taskflow.outbound.answers import Answer, first
from taskflow.outbound.bodies import ACCEPTED_ENCODINGS, Body, read_body
from taskflow.outbound.connecting import GuardedBackend, Resolver, SystemResolver
from taskflow.outbound.errors import (
    AnswerMalformed,
    CertificateRefused,
    ConnectFailed,
    OutboundError,
    RedirectRefused,
    RequestRefused,
    TimedOut,
)
from taskflow.outbound.requests import Destination, Header, OutboundRequest, redirected

USER_AGENT = "TaskFlow"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_NO_ANSWER = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    ssl.SSLError,  # of what comes after the handshake, as the demand for a certificate of ours
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may take. The total holds for redirects and all.

    An answer's head has 100 KiB at most; what a body has beyond `body_bytes`, decoded, is not
    read. `redirects` 0 returns an answer that redirects as it is.
    """

    connect_seconds: float = 10.0
    total_seconds: float = 30.0
    body_bytes: int = 1024 * 1024
    redirects: int = 0


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Received:
    status: int
    headers: tuple[Header, ...]
    body: Body

    @property
    def location(self) -> str | None:
        return first(self.headers, "location") if self.status in _REDIRECTS else None


class OutboundClient:
    """Sends requests to public addresses, and to the inner networks that `rule` opens.

    A connection serves one request. Proxies of the environment, cookies and `.netrc` count for
    nothing. It holds nothing that needs to be closed, and may be used from several loops.
    """

    def __init__(
        self,
        rule: AddressRule,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`ssl_context` holds the authorities that count, by default the machine's own."""
        self._rule = rule
        self._resolver = resolver or SystemResolver()
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()
        # At DEBUG it writes down the headers of answers, and a job's log would keep the cookies.
        logging.getLogger("httpcore2").setLevel(logging.WARNING)

    async def send(self, request: OutboundRequest, limits: Limits = DEFAULT_LIMITS) -> Answer:
        """The answer to a request, whatever its status.

        Raises:
            OutboundError: there is none; its class says why, and whether another try may help.
        """
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(limits.total_seconds):
                received, to, redirects = await self._follow(request, limits)
        except TimeoutError:
            raise TimedOut(
                f"{request.to.host!r} has not answered in full within {limits.total_seconds:g} s."
            ) from None
        return Answer(
            status=received.status,
            headers=received.headers,
            body=received.body.content,
            is_truncated=received.body.is_truncated,
            url=str(to),
            redirects=redirects,
            elapsed_seconds=time.monotonic() - started_at,
        )

    async def _follow(
        self, request: OutboundRequest, limits: Limits
    ) -> tuple[_Received, Destination, int]:
        """The first answer that leads nowhere else, where it came from, after how many others."""
        redirects = 0
        while True:
            received = await self._exchange(request, limits)
            if received.location is None or not limits.redirects:
                return received, request.to, redirects
            if redirects == limits.redirects:
                raise RedirectRefused(f"There are more than {limits.redirects} redirects.")
            request = redirected(request, received.status, received.location)
            redirects += 1

    async def _exchange(self, request: OutboundRequest, limits: Limits) -> _Received:
        backend = GuardedBackend(self._rule, self._resolver)
        message = _message(request, limits)
        connection = httpcore2.AsyncHTTPConnection(
            message.url.origin, ssl_context=self._ssl_context, network_backend=backend
        )
        try:
            response = await connection.handle_async_request(message)
            headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers)
            async with aclosing(response.aiter_stream()) as chunks:
                encoding = first(headers, "content-encoding")
                body = await read_body(chunks, encoding, limits.body_bytes)
        except _NO_ANSWER as error:
            raise _outbound_error(error, request.to) from error
        finally:
            await backend.aclose()
        return _Received(response.status, headers, body)


def _message(request: OutboundRequest, limits: Limits) -> httpcore2.Request:
    given = {name.lower() for name, _ in request.headers}
    ours = {
        "User-Agent": USER_AGENT,
        "Accept": "*/*",
        "Accept-Encoding": ACCEPTED_ENCODINGS,
    }
    headers = [("Host", request.to.host_header), ("Connection", "close")]
    headers += [each for each in ours.items() if each[0].lower() not in given]
    headers += request.headers
    if request.body or request.method in _WITH_BODY:
        headers.append(("Content-Length", str(len(request.body))))
    return httpcore2.Request(
        method=request.method,
        url=httpcore2.URL(
            scheme=request.to.scheme,
            host=request.to.host,
            port=request.to.port,
            target=request.to.target,
        ),
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        content=request.body,
        extensions={"timeout": {"connect": limits.connect_seconds}},
    )


def _outbound_error(error: Exception, to: Destination) -> OutboundError:
    for cause in (error.__cause__, error.__context__):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message.rstrip(".")
            return CertificateRefused(f"The certificate of {to.host!r} is not valid: {why}.")
    said = str(error) or type(error).__name__
    match error:
        case httpcore2.LocalProtocolError():
            # Not what is said: it quotes headers.
            return RequestRefused("The request can't be sent as HTTP/1.1.")
        case httpcore2.RemoteProtocolError():
            return AnswerMalformed(f"{to.host!r} doesn't answer in HTTP: {said}")
        case httpcore2.TimeoutException():
            return TimedOut(f"{to.host!r} could not be reached in time.")
    return ConnectFailed(f"The connection to {to.host!r} failed: {said}.")
