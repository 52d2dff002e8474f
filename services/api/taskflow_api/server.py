"""uvicorn, as this service runs it."""

import asyncio
from socket import socket
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from uuid_utils.compat import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from taskflow_api.problems import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    MEDIA_TYPE,
    ProblemKind,
    problem_response,
)

GRACE_SECONDS = 20
"""How long requests may go on once the process is to stop."""

DRAIN_SECONDS = 2.0
"""How long open connections may bring one more request once the process is to stop."""

_LOOK_EVERY_SECONDS = 0.02

KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of the usual proxies, which would else meet closed connections."""

HEAD_SECONDS = 20.0
"""How long a client may take for its request line and headers, and for what nobody waits for."""

MAX_HEAD_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are bounded, in bytes and time, and whose refusals are problems.

    So is what follows a head and is no body: trailers, and the rest of a request that was answered
    before it had come whole.
    """

    _draining = False
    _in_head = False
    _steps = 0
    _stepless_bytes = 0
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_limit()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        steps = self._steps
        super().data_received(data)
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
        super().on_message_begin()
        self._steps += 1
        self._in_head = True
        self._limit_time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; nobody here wants trailers, so they are not kept."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Pass the request on."""
        self._steps += 1
        self._in_head = False
        self._end_limit()
        super().on_headers_complete()
        if self._draining:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """See that the body goes on."""
        self._steps += 1

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request; one that was answered already makes room for the next."""
        self._steps += 1
        super().on_message_complete()
        if self._owes_rest:
            self._end_limit()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def drain(self) -> None:
        """Close with the answer to the request under way, or to the next one.

        A client that knows of no end may be sending it already, so nothing is cut off here.
        """
        self._draining = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        self._refuse(BAD_REQUEST, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not offered is no news: the request is served as it is."""

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

    def _refuse(self, kind: ProblemKind, detail: str) -> None:
        if not self._in_head and self.cycle is not None and self.cycle.response_started:
            self.transport.close()
            return
        request_id = str(uuid7())
        scope = {"path": "/", "state": {"request_id": request_id}}
        body = bytes(problem_response(scope, kind, detail).body)
        head = (
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[kind.status] + head.encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Ends the requests that wait for something when the process is to stop."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # Nobody is believed about where a request comes from.
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._app = app

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Take no new connection, finish what is under way, close the resources."""
        log.info("api_stopping")
        self._app.state.resources.waiters.close()
        # Connections that were made by now are in the kernel's queue, and would be reset.
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        for listener in self.servers:
            listener.close()
        await self._drain()
        await super().shutdown(sockets)
        log.info("api_stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in peace; at once when it is asked for again."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_SECONDS
        while (connections := self.server_state.connections) and not self.force_exit:
            for connection in connections:
                if isinstance(connection, Protocol):
                    connection.drain()
            if loop.time() > until:
                break
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
