"""An HTTP server that answers with whatever bytes a test likes, however wrong, and at any pace."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it arrived; the names of `headers` are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[ReceivedRequest, asyncio.StreamWriter], Awaitable[None]]


def http_answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole answer; `content_type="text/plain"` stands for `Content-Type: text/plain`."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class HttpServer:
    """Listens on loopback; an async context manager. `requests` are those that came, in order.

    What it answers is `answer`: bytes, or a coroutine function that writes as it likes.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.answer: bytes | Answer = http_answer(200, b"hello")
        self.requests: list[ReceivedRequest] = []
        self._host = host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("the server has not been started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)

        def end(serving: asyncio.Task[None]) -> None:
            writer.transport.abort()
            self._serving.discard(serving)

        serving.add_done_callback(end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _receive(reader)
            self.requests.append(request)
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
            else:
                await self.answer(request, writer)
            await writer.drain()
            writer.close()  # What has been written still arrives.
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            return  # The client went away.


async def _receive(reader: asyncio.StreamReader) -> ReceivedRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, target, headers, body)
