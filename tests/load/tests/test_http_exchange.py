import asyncio
from collections.abc import Awaitable, Callable

import pytest

from taskflow_bench.http_exchange import Answer, BadAnswer, connect, parse

HEAD = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\nContent-Length: 9\r\n\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_an_answer_and_what_follows_it() -> None:
    assert parse(HEAD + b'{"id":1}\nHTTP') == (Answer(202, b'{"id":1}\n'), b"HTTP")


@pytest.mark.parametrize("length", [0, 10, len(HEAD), len(HEAD) + 8])
def test_an_answer_that_is_not_whole(length: int) -> None:
    assert parse((HEAD + b'{"id":1}\n')[:length]) is None


IN_CHUNKS = (
    b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\n{\r\n\r\nb\r\n1234567\r\n90\r\n0\r\n\r\n"
)


def test_an_answer_in_chunks() -> None:
    assert parse(IN_CHUNKS + b"HTTP") == (Answer(202, b"{\r\n1234567\r\n90"), b"HTTP")
    assert all(parse(IN_CHUNKS[:length]) is None for length in range(len(IN_CHUNKS)))


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_it_does_not_read(head: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse(head)


async def exchange_with(serve: Serve) -> Answer:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = await connect("127.0.0.1", server.sockets[0].getsockname()[1])
        try:
            return await connection.exchange(b"hello")
        finally:
            connection.close()


async def test_an_answer_in_pieces() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        for piece in (HEAD[:20], HEAD[20:] + b"1234", b"56789"):
            writer.write(piece)
            await writer.drain()
        await reader.read()
        writer.close()

    assert await exchange_with(serve) == Answer(202, b"123456789")


async def test_a_server_that_hangs_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.close()

    with pytest.raises(BadAnswer, match="closed"):
        await exchange_with(serve)
