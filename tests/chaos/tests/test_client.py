import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from taskflow_chaos.client import Client, pause_seconds
from taskflow_chaos.workload import PlannedJob
from taskflow_testing.tcp_proxy import TcpProxy

ID = "01890000-0000-7000-8000-000000000001"
JOB = PlannedJob("key-1", "chaos.work", 0.1, "completes", None, is_sent_twice=False)

Answer = tuple[int, str]
"""Status and further header lines."""


@asynccontextmanager
async def api_that_answers(*answers: Answer) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP server that gives one answer after the other; its URL, and the requests so far."""

    requests: list[str] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(head)
        status, headers = left.pop(0)
        body = f'{{"id": "{ID}"}}'
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
            f"{headers}\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", requests


async def test_what_failed_is_repeated_with_its_key_until_there_is_a_202() -> None:
    answers = [(503, "Retry-After: 0\r\n"), (503, "Retry-After: 0\r\n"), (202, "")]
    async with api_that_answers(*answers) as (url, requests), Client([url], "secret") as client:
        accepted = await client.submit(JOB)
    assert str(accepted.job_id) == ID
    assert client.accepted == [accepted]
    assert accepted.try_seconds <= accepted.waited_seconds
    assert client.statuses == {"503": 2, "202": 1}
    assert client.complaints == []
    assert len(requests) == 3
    assert all("idempotency-key: key-1" in request.lower() for request in requests)


@pytest.mark.parametrize(
    ("answer", "says"), [((500, ""), "500"), ((503, ""), "without Retry-After"), ((422, ""), "422")]
)
async def test_an_answer_that_no_fault_excuses_is_a_complaint(answer: Answer, says: str) -> None:
    async with api_that_answers(answer, (202, "")) as (url, _), Client([url], "secret") as client:
        await client.submit(JOB)
    assert len(client.complaints) == 1
    assert says in client.complaints[0]


async def test_the_next_try_goes_to_the_other_api() -> None:
    async with (
        api_that_answers((202, "")) as (url, requests),
        TcpProxy(url) as down,
        Client([down.url, url], "secret") as client,
    ):
        down.go_down()
        await client.submit(JOB)
    assert client.statuses == {"no connection": 1, "202": 1}
    assert len(requests) == 1


async def test_a_cancel_that_comes_too_late_is_done() -> None:

    answers = [(503, "Retry-After: 0\r\n"), (409, "")]
    async with api_that_answers(*answers) as (url, _), Client([url], "secret") as client:
        await client.cancel(UUID(ID))
    assert client.complaints == []


def test_tries_do_not_keep_step_with_a_fault_that_comes_at_an_even_pace() -> None:
    """Two APIs take four seconds each: 2.4 to start, 1.6 until they are killed."""
    rng = random.Random(1)
    moment, tries = 0.05, 0
    while (moment + (tries % 2)) % 4 < 2.4:
        moment += pause_seconds(tries + 10, None, rng)
        tries += 1
        assert tries < 50
