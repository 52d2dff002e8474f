"""The protocol of the server on a real socket, around a small application."""

import asyncio
import contextlib
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


def opened(transport: KeptTransport) -> Protocol:
    config = uvicorn.Config(hello, http=Protocol, lifespan="off", log_config=None)
    config.load()
    protocol = Protocol(config, ServerState(), {})
    protocol.connection_made(transport)
    return protocol


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
    transport = KeptTransport()
    protocol = opened(transport)
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


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        pytest.param(b"0\r\n", b"A: " + b"a" * 1_000 + b"\r\n", id="trailers"),
        pytest.param(b"0\r\nA: ", b"a" * 1_000, id="one-trailer"),
        pytest.param(b"1;", b"a" * 1_000, id="chunk-extension"),
    ],
)
async def test_what_is_neither_head_nor_body_has_a_limit(
    port: int, beginning: bytes, more: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CHUNKED)
    assert b"200 OK" in await reader.readuntil(b"hello")
    writer.write(beginning)
    with contextlib.suppress(ConnectionError):
        for _ in range(16 * 1024):
            writer.write(more)
            await writer.drain()
    assert writer.transport.is_closing()
    writer.transport.abort()


async def test_trailers_are_no_headers() -> None:
    protocol = opened(KeptTransport())
    protocol.data_received(CHUNKED + b"0\r\nIdempotency-Key: k\r\n\r\n")
    assert [name for name, _ in protocol.headers] == [b"host", b"transfer-encoding"]
    protocol.connection_lost(None)
    await asyncio.sleep(0)


@pytest.mark.parametrize("rest", [b"x", b"5;ext"], ids=["body", "chunk-header"])
async def test_the_rest_of_an_answered_request_must_come(
    port: int, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.server.HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CHUNKED)
    assert b"200 OK" in await reader.readuntil(b"hello")
    writer.write(rest)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_request_that_comes_whole_after_its_answer_makes_room_for_the_next(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.server.HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(CHUNKED)
        assert b"200 OK" in await reader.readuntil(b"hello")
        writer.write(b"0\r\n\r\n")
        # An idle connection may stay for longer than a head may take.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.4)
    writer.close()
    await writer.wait_closed()
