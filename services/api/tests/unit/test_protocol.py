"""The protocol of the server on a real socket, around a small application."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from taskflow_api.server import Protocol


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


class KeptTransport(asyncio.Transport):
    """The end of a connection that is nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(hello, http=Protocol, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(config, state, {}), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]
        for connection in list(state.connections):
            connection.shutdown()


async def test_a_head_that_does_not_come_ends_the_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.server.HEAD_SECONDS", 0.1)
    for beginning in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(beginning)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_many_requests_on_one_connection_each_have_a_head_of_their_own(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"
    for _ in range(5):
        writer.write(head)
        assert b"200 OK" in await reader.readuntil(b"hello")
    writer.write(head * 5)
    for _ in range(5):
        assert b"200 OK" in await reader.readuntil(b"hello")
    writer.close()
    await writer.wait_closed()


async def test_a_piece_full_of_requests_is_no_large_head() -> None:
    config = uvicorn.Config(hello, http=Protocol, lifespan="off", log_config=None)
    config.load()
    protocol = Protocol(config, ServerState(), {})
    transport = KeptTransport()
    protocol.connection_made(transport)
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"

    protocol.data_received(request * 4 + request[:10_000])

    assert not transport.is_closing()
    protocol.connection_lost(None)
    await asyncio.sleep(0)


async def test_a_large_body_is_no_large_head(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b"x" * 200_000
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    writer.write(body)
    assert b"200 OK" in await reader.readuntil(b"hello")
    writer.close()
    await writer.wait_closed()
