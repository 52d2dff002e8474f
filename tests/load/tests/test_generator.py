import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, islice, pairwise
from typing import Any

from taskflow_bench.generator import Generator, requests
from taskflow_bench.load import Load, Post


def load(**changes: Any) -> Load:
    settings: dict[str, Any] = {
        "port": 1234,
        "path": "/jobs",
        "posts": [Post(body='{"type":"echo"}')],
        "connections": 2,
        "requests": 10,
        "seconds": 5.0,
    }
    return Load(**settings | changes)


@asynccontextmanager
async def serving(
    status: int = 202, seconds: float = 0.0
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers with a new id each time; its port and what it was sent."""
    received: list[bytes] = []
    numbers = count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                received.append(await reader.readuntil(b'{"type":"echo"}'))
                await asyncio.sleep(seconds)
                body = b'{"id":%d}' % next(numbers)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
                writer.write(body)
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], received


def test_a_request_with_headers() -> None:
    (first, second) = islice(requests(load(headers={"X-API-Key": "secret"})), 2)
    assert first == second
    assert first == (
        b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1:1234\r\nContent-Type: application/json\r\n"
        b'Content-Length: 15\r\nX-API-Key: secret\r\n\r\n{"type":"echo"}'
    )


def test_each_request_has_an_idempotency_key_of_its_own() -> None:
    found = list(islice(requests(load(with_idempotency_keys=True)), 3))
    assert len(set(found)) == 3
    assert all(b"\r\nIdempotency-Key: " in each for each in found)
    assert all(each.endswith(b'\r\n\r\n{"type":"echo"}') for each in found)


def test_each_post_has_its_turn() -> None:
    posts = [Post(body="1"), Post(body="22", headers={"X-API-Key": "own"})]
    found = list(islice(requests(load(posts=posts, headers={"X-API-Key": "common"})), 3))
    assert found[0] == found[2]
    assert found[0].endswith(b"Content-Length: 1\r\nX-API-Key: common\r\n\r\n1")
    assert found[1].endswith(b"Content-Length: 2\r\nX-API-Key: own\r\n\r\n22")


async def test_all_requests_are_sent_once() -> None:
    async with serving() as (port, received):
        sent = await Generator(load(port=port, with_idempotency_keys=True)).run()
    assert sent.accepted == 10
    assert len(set(received)) == len(received) == 10
    assert sent.seconds > 0


async def test_it_ends_when_the_time_is_up() -> None:
    async with serving(seconds=0.01) as (port, _):
        sent = await Generator(load(port=port, requests=10_000, seconds=0.1)).run()
    assert 0 < sent.accepted < 100


async def test_refusals_are_counted_and_the_first_is_kept() -> None:
    async with serving(status=422) as (port, _):
        sent = await Generator(load(port=port)).run()
    assert sent.statuses == {422: 10}
    assert sent.accepted == 0
    assert sent.first_refusal.startswith('{"id":')


async def test_at_a_rate_each_job_is_due_at_its_time() -> None:
    async with serving() as (port, _):
        sent = await Generator(load(port=port, rate=100.0)).run()
    due_at = [sent.due_at[str(number)] for number in range(10)]
    gaps = [later - earlier for earlier, later in pairwise(due_at)]
    assert all(abs(gap - 0.01) < 1e-6 for gap in gaps)


async def test_at_a_rate_a_slow_server_puts_nothing_off() -> None:
    """Both connections are taken: what is due meanwhile waits, and is late from when it was due."""
    async with serving(seconds=0.05) as (port, _):
        sent = await Generator(load(port=port, rate=1_000.0)).run()
    assert max(sent.due_at.values()) - min(sent.due_at.values()) < 0.02
    assert sent.seconds > 0.2
