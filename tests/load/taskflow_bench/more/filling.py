"""A backlog in an instant: copies of a job that the API has accepted, each with its pointer."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel
from yarl import URL

from taskflow.broker import topology
from taskflow.broker.connection import connect
from taskflow.broker.message import encode
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.jobs.usage import KEPT_OF_JOB
from taskflow_bench.errors import BenchBroke
from taskflow_bench.running import say

_LANE = Lane("default", Priority.MEDIUM)
_PER_MILLISECOND = 4
_SLICE = 100_000
_PIECE = 500
_LOOK_SECONDS = 0.5
_STALLED_SECONDS = 60.0
_MILLISECONDS = 1_000


@dataclass(frozen=True)
class _Times:
    """When the copies were accepted, so to speak: some in each millisecond from `began_ms` on."""

    began_ms: int

    @classmethod
    def up_to_now(cls, count: int) -> "_Times":
        return cls(round(time.time() * _MILLISECONDS) - count // _PER_MILLISECOND)

    def id_of(self, number: int) -> UUID:
        """In the order of time, as the API's are."""
        return UUID(f"{self._ms(number):012x}70008000{number:012x}")

    def at(self, number: int) -> datetime:
        return datetime.fromtimestamp(self._ms(number) / _MILLISECONDS, UTC)

    def id_sql(self) -> str:
        ms = f"lpad(to_hex({self.began_ms} + n / {_PER_MILLISECOND}), 12, '0')"
        return f"({ms} || '70008000' || lpad(to_hex(n), 12, '0'))::uuid"

    def at_sql(self) -> str:
        return f"to_timestamp(({self.began_ms} + n / {_PER_MILLISECOND}) / {_MILLISECONDS}.0)"

    def _ms(self, number: int) -> int:
        return self.began_ms + number // _PER_MILLISECOND


async def fill(database_url: str, amqp_url: str, model: UUID, count: int) -> None:
    """Have `count` jobs more that wait as `model` does, an `echo` in its lane of `default`.

    They have everything that a submission leaves: the job, its key, its event, what its tenant
    uses, and a pointer in the broker.
    """
    times = _Times.up_to_now(count)
    connection = await asyncpg.connect(database_url)
    try:
        for table, changes in _changes(times).items():
            await _copy(connection, table, changes, model, count)
            say(f"  {count:,} rows in {table}")
        await connection.execute(_COUNT, model, count)
        await connection.execute("ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    await _publish(amqp_url, times, count)
    say(f"  {count:,} pointers in the broker")


def _changes(times: _Times) -> Mapping[str, Mapping[str, str]]:
    """By table: the columns in which a copy differs from its model; the first is the job's id."""
    job_id, at = times.id_sql(), times.at_sql()
    moments = ("created_at", "updated_at", "run_at", "pointer_at")
    return {
        "jobs": {"id": job_id, **dict.fromkeys(moments, at)},
        "job_events": {"job_id": job_id, "at": at},
        "idempotency_keys": {"job_id": job_id, "key": "'backlog-' || n", "created_at": at},
    }


_OTHER_COLUMNS = """
SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = $1 AND is_identity = 'NO'
  AND column_name <> ALL($2::text[])
"""

_COUNT = f"""
INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)
SELECT tenant_id, $2::bigint, $2::bigint * ({KEPT_OF_JOB}), 0 FROM jobs WHERE id = $1
"""


async def _copy(
    connection: asyncpg.Connection, table: str, changes: Mapping[str, str], model: UUID, count: int
) -> None:
    others = await connection.fetchval(_OTHER_COLUMNS, table, list(changes))
    key = next(iter(changes))
    statement = f"""
    WITH model AS MATERIALIZED (SELECT * FROM {table} WHERE {key} = $1)
    INSERT INTO {table} ({", ".join(changes)}, {others})
    SELECT {", ".join(changes.values())}, {others}
    FROM model, generate_series($2::bigint, $3::bigint) AS n
    """
    for first in range(0, count, _SLICE):
        await connection.execute(statement, model, first, min(first + _SLICE, count) - 1)


async def _publish(amqp_url: str, times: _Times, count: int) -> None:
    """Send them without waiting for confirms, and see that the lane has got all of them."""
    connection = await connect(URL(amqp_url))
    try:
        sending = await connection.channel(publisher_confirms=False)
        channel = await sending.get_underlay_channel()
        # aiormq's abstract channel does not know `wait`.
        assert isinstance(channel, Channel)
        for number, pointer in enumerate(_pointers(times, count), start=1):
            message = encode(pointer)
            await channel.basic_publish(
                message.body,
                exchange=topology.JOBS_EXCHANGE,
                routing_key=_LANE.key,
                properties=message.properties,
                # What is written waits now and then until the socket takes it.
                wait=number % _PIECE == 0,
            )
        # The model's own is there as well.
        await _wait_for_depth(connection, count + 1)
    finally:
        await connection.close()


def _pointers(times: _Times, count: int) -> Iterator[Pointer]:
    for number in range(count):
        yield Pointer(times.id_of(number), _LANE, "echo", times.at(number))


async def _wait_for_depth(connection: AbstractConnection, depth: int) -> None:
    """Return when the lane holds so many messages.

    Raises:
        BenchBroke: no more come.
    """
    channel = await connection.channel()
    before, moved_at = -1, time.monotonic()
    while True:
        queue = await channel.declare_queue(topology.lane_queue(_LANE), passive=True)
        found = queue.declaration_result.message_count or 0
        if found >= depth:
            return
        if found > before:
            before, moved_at = found, time.monotonic()
        if time.monotonic() - moved_at > _STALLED_SECONDS:
            raise BenchBroke(f"the broker has {found} of {depth} pointers, and no more come")
        await asyncio.sleep(_LOOK_SECONDS)
