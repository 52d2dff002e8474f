"""A consumer's insides for tests: real servers, handlers that note what they see."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow import Backoff, Fail, JobContext, Registry, job
from taskflow.broker.connection import Broker
from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.lanes import Lane
from taskflow.jobs.outcomes import Attempt
from taskflow.jobs.states import Priority
from taskflow_consumer.subscriber import Subscriber
from taskflow_consumer.taker import Taker
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

LANES = [Lane("default", priority) for priority in Priority]


class Ours:
    """Stands in for our own heartbeat, log shipper and the rest: takes everything, does nothing."""

    def hold(self, attempt: Attempt, deadline_seconds: float | None) -> None: ...

    def hold_all(self, attempts: Sequence[Attempt]) -> None: ...

    def drop(self, attempt: Attempt) -> None: ...

    def report(self, attempt: Attempt, percent: float, message: str | None) -> None: ...

    def is_unsettled(self, _: Attempt) -> bool:
        return False

    async def settle(self, attempt: Attempt) -> None: ...

    def open(self, _: ClaimedJob) -> "Ours":
        return self

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None: ...

    async def close(self) -> None: ...


class House:
    """One consumer's insides, and what its handlers saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.watermarks: dict[str, datetime] = {}
        self.consuming: Broker
        self.subscriber: Subscriber
        self.taker: Taker

    def note(self, lane_key: str, pointer_at: datetime) -> None:
        self.watermarks[lane_key] = max(pointer_at, self.watermarks.get(lane_key, pointer_at))

    def registry(self) -> Registry:
        @job("echo")
        async def echo(payload: dict[str, Any], ctx: JobContext) -> str:
            self.seen.append((payload["text"], ctx.attempt))
            return str(payload["text"])

        @job("held")
        async def held(payload: dict[str, Any], ctx: JobContext) -> None:
            self.seen.append((payload["text"], ctx.attempt))
            await self.gate.wait()

        @job("flaky", backoff=Backoff(base_seconds=0.5, jitter=0))
        async def flaky(payload: dict[str, Any], ctx: JobContext) -> None:
            self.seen.append((payload["text"], ctx.attempt))
            if ctx.attempt == 1:
                raise ValueError("not yet")

        @job("broken")
        async def broken(payload: dict[str, Any]) -> None:
            raise Fail("never")

        return Registry([f.job_type for f in (echo, held, flaky, broken)])


Start = Callable[..., Awaitable[House]]


Post = Callable[..., Awaitable[UUID]]


@asynccontextmanager
async def database_at(url: str, timeout_seconds: float = 5) -> AsyncIterator[Database]:
    database = await open_database(
        url,
        role=DatabaseRole.CONSUMER,
        application_name="test",
        pool_size=4,
        statement_timeout_seconds=timeout_seconds,
        acquire_timeout_seconds=timeout_seconds,
    )
    yield database
    await database.close()


async def reach(jobs: Jobs, job_id: UUID, state: str) -> None:
    async def there() -> bool:
        return await jobs.state(job_id) == state

    await eventually(there)


async def depth(broker: Broker, queue_name: str) -> int:
    async with broker.short_channel() as channel:
        queue = await channel.declare_queue(queue_name, passive=True)
        return queue.declaration_result.message_count or 0
