"""One keep-alive connection, with as little Python to a request as can be."""

import asyncio
import re
from dataclasses import dataclass
from typing import cast

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CONNECTION_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class BadAnswer(Exception):
    """The server said what this client does not read, or hung up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body."""

    status: int
    body: bytes


def parse(received: bytes) -> tuple[Answer, bytes] | None:
    """The first answer in what was received, and the rest; None: it is not whole yet.

    Raises:
        BadAnswer: it does not say where it ends, or its connection ends with it.
    """
    head_end = received.find(_HEAD_END)
    if head_end < 0:
        return None
    head = received[: head_end + 2]
    if not head.startswith(b"HTTP/1.1 "):
        raise BadAnswer(f"no HTTP/1.1 answer: {head[:200]!r}")
    if _CONNECTION_CLOSE.search(head):
        raise BadAnswer(f"the server closes the connection: {head[:200]!r}")
    begin = head_end + len(_HEAD_END)
    if length := _LENGTH.search(head):
        end = begin + int(length[1])
        whole = (received[begin:end], end) if len(received) >= end else None
    elif _CHUNKED.search(head):
        whole = _chunks(received, begin)
    else:
        raise BadAnswer(f"an answer that does not say where it ends: {head[:200]!r}")
    if whole is None:
        return None
    body, end = whole
    return Answer(int(received[9:12]), body), received[end:]


def _chunks(received: bytes, begin: int) -> tuple[bytes, int] | None:
    """The body in chunks from there, and where it ends; None: it is not whole yet."""
    pieces: list[bytes] = []
    while (size_end := received.find(b"\r\n", begin)) >= 0:
        size = int(received[begin:size_end], 16)
        end = size_end + 2 + size + 2
        if len(received) < end:
            return None
        if size == 0:
            return b"".join(pieces), end
        pieces.append(received[size_end + 2 : end - 2])
        begin = end
    return None


class Connection(asyncio.Protocol):
    """Sends a request and waits for its answer; never two at once."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what writes."""
        # Not all of uvloop's say that they are one.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand on an answer that is whole."""
        self._received += data
        try:
            found = parse(self._received)
        except BadAnswer as error:
            self._fail(error)
            return
        if found is not None and self._answer is not None and not self._answer.done():
            answer, self._received = found
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._fail(BadAnswer(f"the connection was closed: {exc or 'by the server'}"))

    async def exchange(self, request: bytes) -> Answer:
        """The answer to a request.

        Raises:
            BadAnswer: there is none.
        """
        if self._transport is None or self._transport.is_closing():
            raise BadAnswer("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: BadAnswer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def connect(host: str, port: int) -> Connection:
    """A connection that stands."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection
