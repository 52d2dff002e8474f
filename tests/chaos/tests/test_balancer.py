import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from taskflow_chaos.balancer import Balancer
from taskflow_local.ports import LOOPBACK


@asynccontextmanager
async def _node(name: bytes) -> AsyncIterator[str]:
    """A server that answers whatever it is told with its name."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(8):
            writer.write(name)
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    try:
        yield f"amqp://user:secret@{LOOPBACK}:{server.sockets[0].getsockname()[1]}/%2F"
    finally:
        server.close()


async def _ask(url: str) -> bytes:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(b"hello")
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.transport.abort()


async def test_nodes_take_turns_and_one_that_does_not_answer_gets_nothing() -> None:
    async with _node(b"one") as one, _node(b"two") as two:
        async with Balancer([one, two], check_seconds=0.01) as balancer:
            assert urlsplit(balancer.url).netloc.startswith("user:secret@")
            assert {await _ask(balancer.url) for _ in range(2)} == {b"one", b"two"}
        gone = one.replace(f":{urlsplit(one).port}/", ":1/")
        async with Balancer([gone, two], check_seconds=0.01) as balancer, asyncio.timeout(5):
            while not await _only(b"two", balancer.url):
                await asyncio.sleep(0.01)


async def _only(name: bytes, url: str) -> bool:
    return {await _ask(url) for _ in range(4)} == {name}
