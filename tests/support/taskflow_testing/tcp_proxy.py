"""A TCP proxy that stands in for a bad network: down, frozen, slow, or cutting answers short."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_READ_BYTES = 64 * 1024


class TcpProxy:
    """Passes connections on to one server until it is told otherwise; an async context manager.

    What is set holds for connections that are open already, too.
    """

    def __init__(self, target_url: str, *, tls: ssl.SSLContext | None = None) -> None:
        """`target_url` is the server's URL, of any scheme, with host and port.

        Its own clients have to begin with TLS where there is a context for it.
        """
        self._target_url = target_url
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._is_down = False
        self._flows = asyncio.Event()
        self._flows.set()
        self.answer_delay_seconds = 0.0
        """How long each piece of an answer is held back."""
        self.answer_limit_bytes: int | None = None
        """After this many bytes of answers a connection is cut."""
        self.accepted = 0
        """How many connections were opened so far, those that were refused included."""

    @property
    def url(self) -> str:
        """The target's URL with the proxy's host and port in place of its own."""
        if self._server is None:
            raise RuntimeError("the proxy has not been started")
        target = urlsplit(self._target_url)
        host, port = self._server.sockets[0].getsockname()
        userinfo, separator, _ = target.netloc.rpartition("@")
        return urlunsplit(target._replace(netloc=f"{userinfo}{separator}{host}:{port}"))

    @property
    def open_connections(self) -> int:
        """How many connections neither side has ended yet."""
        return len(self._connections)

    def go_down(self) -> None:
        """Reset every connection, now and from now on."""
        self._is_down = True
        self.cut()

    def come_back(self) -> None:
        """Undo `go_down`."""
        self._is_down = False

    def freeze(self) -> None:
        """Accept connections but pass no more bytes either way."""
        self._flows.clear()

    def thaw(self) -> None:
        """Undo `freeze`: what was held back goes on its way."""
        self._flows.set()

    def cut(self) -> None:
        """Reset the connections that are open."""
        for connection in self._connections:
            connection.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is None:
            return
        loop = asyncio.get_running_loop()
        for listener in self._server.sockets:
            loop.remove_reader(listener.fileno())
        # A connection that was accepted just now is not with us yet, and asyncio loses those that
        # it is still setting up when the server closes.
        for _ in range(3):
            await asyncio.sleep(0)
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._server.close()
        await self._server.wait_closed()

    def _next_target(self) -> str:
        """Where the next connection leads; a balancer has several to choose from."""
        return self._target_url

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)

        def end(connection: asyncio.Task[None]) -> None:
            # Also of a connection that was cut before its task could begin.
            writer.transport.abort()
            self._connections.discard(connection)

        connection.add_done_callback(end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            if self._is_down:
                return
            target = urlsplit(self._next_target())
            answers, upstream = await asyncio.open_connection(target.hostname, target.port)
            ends.append(upstream)
            await _first_to_end(
                _pump(reader, upstream, self._hold_request),
                _pump(answers, writer, self._answer_brake()),
            )
            for end in ends:
                end.close()  # What has been passed on still arrives.
                await end.wait_closed()
        except OSError:
            return  # The server is away, which is what the client is to see.
        finally:
            for end in ends:
                end.transport.abort()

    async def _hold_request(self, piece: bytes) -> bytes:
        await self._flows.wait()
        return piece

    def _answer_brake(self) -> Callable[[bytes], Awaitable[bytes]]:
        passed = 0

        async def brake(piece: bytes) -> bytes:
            nonlocal passed
            await asyncio.sleep(self.answer_delay_seconds)
            await self._flows.wait()
            if self.answer_limit_bytes is not None:
                piece = piece[: max(self.answer_limit_bytes - passed, 0)]
            passed += len(piece)
            return piece

        return brake


async def _first_to_end(*ways: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    brake: Callable[[bytes], Awaitable[bytes]],
) -> None:
    """Copy until the source ends or the brake lets nothing through."""
    while piece := await brake(await source.read(_READ_BYTES)):
        sink.write(piece)
        await sink.drain()
