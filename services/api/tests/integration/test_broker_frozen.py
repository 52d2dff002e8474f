"""A broker that takes bytes and answers nothing: submissions don't notice."""

import asyncio
import time
from typing import Any

import asyncpg
import httpx

from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
AT_ONCE = 20
ROUNDS = 50
PUBLISH_TIMEOUT_SECONDS = 30.0
"""What who waited for the broker would wait; how quick the others are is measured by C7."""


async def timed_submission(api: httpx.AsyncClient) -> float:
    began_at = time.perf_counter()
    answer = await api.post(JOBS, json={"type": "echo"})
    assert answer.status_code == 202
    return time.perf_counter() - began_at


async def test_submissions_do_not_wait_for_a_broker_that_is_frozen(
    start: Any, amqp_url: str, connection: asyncpg.Connection
) -> None:
    async with (
        TcpProxy(amqp_url) as proxy,
        start(amqp_url=proxy.url, amqp_publish_timeout_seconds=PUBLISH_TIMEOUT_SECONDS) as api,
    ):

        async def is_connected() -> bool:
            health = (await api.get("/api/v1/health")).json()
            return bool(health["dependencies"]["broker"]["status"] == "ok")

        await eventually(is_connected)
        await timed_submission(api)
        proxy.freeze()
        took: list[float] = []
        for _ in range(ROUNDS):
            took += await asyncio.gather(*(timed_submission(api) for _ in range(AT_ONCE)))
        assert max(took) < PUBLISH_TIMEOUT_SECONDS / 6
        proxy.go_down()
    # Nothing of it is lost along with the process: the scheduler finds what has no pointer.
    waiting = await connection.fetchval(
        "SELECT count(*) FROM jobs WHERE state = 'queued' AND pointer_at IS NULL"
    )
    assert waiting >= ROUNDS * AT_ONCE
