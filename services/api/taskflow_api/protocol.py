"""HTTP/1.1, as the server speaks it."""

import asyncio

import httptools
import structlog
from uuid_utils.compat import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from taskflow_api.client_address import UNKNOWN
from taskflow_api.middleware.request_context import REQUEST_ID_HEADER, SECURITY_HEADERS
from taskflow_api.problems import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    MEDIA_TYPE,
    URI_TOO_LONG,
    ProblemKind,
    problem_response,
)

HEAD_SECONDS = 20.0
"""How long a client may take for its request line and headers, and for what nobody waits for."""

MAX_HEAD_BYTES = 64 * 1024
"""Of an address; of headers; and of what stands between the pieces of a body, and after it."""

MAX_HEADERS = 100

MAX_UNREAD_BYTES = 1024 * 1024
"""Of a body that goes on after its answer: up to here a client may notice that it has one."""

STALL_SECONDS = 60.0
LEAST_READ_BYTES = 16 * 1024
"""What a client has to take, in each span of so long, of what fills the buffers."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

log = structlog.get_logger(__name__)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are bounded, in bytes and time, and whose refusals are problems.

    So is what follows a head and is no body: trailers, and the rest of a request that was answered
    before it had come whole. Who doesn't read an answer is cut off.
    """

    _draining = False
    _in_head = False
    _is_resuming = False
    _has_passed_over_body = False
    _head_bytes = 0
    _steps = 0
    _stepless_bytes = 0
    _unread_bytes = 0
    _limit: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _refusal: tuple[ProblemKind, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_limit()
        self._end_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        steps = self._steps
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (BAD_REQUEST, "Invalid HTTP request received.")))
        if self.transport.is_closing():
            return
        # A piece in which a request gets on may hold more than its head: it isn't counted.
        self._stepless_bytes = self._stepless_bytes + len(data) if self._steps == steps else 0
        if self._stepless_bytes > MAX_HEAD_BYTES:
            self._refuse(HEADERS_TOO_LARGE, f"The limit is {MAX_HEAD_BYTES} bytes.")
        elif self._owes_rest and self._limit is None:
            self._limit_time()

    def on_message_begin(self) -> None:
        """Wait for the head of the request that begins."""
        if self._is_resuming:
            return
        super().on_message_begin()
        # The last byte of the request before may have come in the same piece.
        self._unset_keepalive_if_required()
        self._steps += 1
        self._in_head = True
        self._head_bytes = 0
        self._unread_bytes = 0
        self._limit_time()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        if self._is_resuming:
            return
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            self._refusal = (URI_TOO_LONG, f"The limit is {MAX_HEAD_BYTES} bytes.")
            raise ValueError("the address is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; one that comes after the body is none, whatever its name."""
        if not self._in_head:
            return
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            detail = f"The limits are {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes."
            self._refusal = (HEADERS_TOO_LARGE, detail)
            raise ValueError("the headers are too large")

    def on_headers_complete(self) -> None:
        """Pass the request on."""
        if self._is_resuming:
            return
        super().on_headers_complete()
        self._has_passed_over_body = self.parser.should_upgrade() and self._has_body
        self._steps += 1
        self._in_head = False
        self._end_limit()
        if self._draining:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """See that the body goes on."""
        self._steps += 1

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        self._steps += 1
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request; one that was answered already makes room for the next."""
        if self._has_passed_over_body:
            return
        self._steps += 1
        super().on_message_complete()
        if self._owes_rest:
            self._end_limit()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def pause_writing(self) -> None:
        """Wait for a client that doesn't read, but not for ever."""
        super().pause_writing()
        self._watch_stall(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        self._end_stall()
        super().resume_writing()

    def drain(self) -> None:
        """Close with the answer to the request under way, or to the next one.

        A client that knows of no end may be sending it already, so nothing is cut off here.
        """
        self._draining = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def _parse(self, data: bytes) -> None:
        """Parse a piece. No upgrade is offered: what follows the wish for one is HTTP/1.1 still."""
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                if self._has_passed_over_body:
                    self._resume_body()
            else:
                return

    def _resume_body(self) -> None:
        """Read the body as one, which the parser holds for the other protocol's.

        A proxy in front has it for a body, and may send somebody else's request after it.
        """
        framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in _FRAMING]
        self._has_passed_over_body = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._is_resuming = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
        self._is_resuming = False

    @property
    def _has_body(self) -> bool:
        return any(name in _FRAMING for name, _ in self.headers)

    @property
    def _owes_rest(self) -> bool:
        """Whether what comes belongs to a request that has its answer, so that nobody waits."""
        return (
            self.cycle is not None
            and self.cycle.response_complete
            and not self._in_head
            and self.timeout_keep_alive_task is None
        )

    def _limit_time(self) -> None:
        self._end_limit()
        self._limit = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _watch_stall(self, unread_bytes: int) -> None:
        self._end_stall()
        self._stall = self.loop.call_later(STALL_SECONDS, self._cut_off_unless_read, unread_bytes)

    def _cut_off_unless_read(self, unread_before_bytes: int) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_before_bytes - unread_bytes < LEAST_READ_BYTES:
            self.transport.abort()
        else:
            self._watch_stall(unread_bytes)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _refuse(self, kind: ProblemKind, detail: str) -> None:
        if not self._may_answer:
            # Whatever is written now would be taken for another answer, or a part of it.
            self.transport.close()
            return
        request_id = str(uuid7())
        client = self.client[0] if self.client else UNKNOWN
        log.info(
            "http_refused", request_id=request_id, status=kind.status, code=kind.code, client=client
        )
        scope = {"path": "/", "state": {"request_id": request_id}}
        body = bytes(problem_response(scope, kind, detail).body)
        headers = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": len(body),
            REQUEST_ID_HEADER: request_id,
            **SECURITY_HEADERS,
            "Connection": "close",
        }
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[kind.status] + lines.encode() + b"\r\n" + body)
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True

    @property
    def _may_answer(self) -> bool:
        """Whether what is refused is due an answer, and no other one comes before that."""
        cycle = self.cycle
        if cycle is None or self._in_head:
            return cycle is None or cycle.response_complete
        return cycle.more_body and not cycle.response_started and not self.pipeline
