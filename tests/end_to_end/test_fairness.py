"""A tenant that floods a lane delays no other one, counted in starts."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest

from taskflow.broker import topology
from taskflow.broker.publisher import Publisher
from taskflow.doctor import invariants
from taskflow.jobs.lanes import Lane
from taskflow.jobs.new_job import NewJob, Submission
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.jobs.submission import submit
from taskflow_testing.clients import connected_broker
from taskflow_testing.jobs import new_job
from taskflow_testing.services import NewServices, Servers
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

NOISY, QUIET, LIMITED = UUID(int=0xA), UUID(int=0xB), UUID(int=0xC)
FLOOD, SLOTS = 2000, 2
SECONDS = 0.2

# Noisy starts between a quiet job's submission and its start.
_OVERTAKEN_BY = """
SELECT quiet.id, count(noisy.id) AS starts
FROM jobs AS quiet
JOIN job_events AS own ON own.job_id = quiet.id AND own.event = 'claim'
LEFT JOIN job_events AS noisy
  ON noisy.tenant_id = $1 AND noisy.event = 'claim' AND noisy.id < own.id
 AND noisy.at > quiet.created_at
WHERE quiet.tenant_id = $2 GROUP BY quiet.id
"""


@pytest.fixture
async def connection(clean_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(clean_database)
    yield connection
    await connection.close()


@pytest.fixture
async def lane(real_servers: Servers) -> AsyncIterator[Lane]:
    lane = Lane(f"q{uuid4().hex[:12]}", Priority.MEDIUM)
    yield lane
    # Emptied, not deleted: what is on the ladder still comes back, and would be unrouted.
    async with await aio_pika.connect(real_servers.amqp_url) as broker:
        channel = await broker.channel()
        await (await channel.get_queue(topology.lane_queue(lane))).purge()


def sleeping(tenant_id: UUID, lane: Lane, seconds: float = SECONDS) -> NewJob:
    return new_job(
        tenant_id=tenant_id, type="sleep", queue=lane.queue, payload={"seconds": seconds}
    )


async def test_a_flood_of_one_tenant_is_not_in_the_way_of_another(
    real_servers: Servers, new_services: NewServices, connection: asyncpg.Connection, lane: Lane
) -> None:
    services = new_services(real_servers, queues=lane.queue)
    for _ in range(FLOOD // 500):
        flood = [sleeping(NOISY, lane) for _ in range(500)]
        await submit(connection, flood, with_pointers=False)
    await services.start_scheduler()
    await eventually(lambda: _all_are_sent(connection))
    for _ in range(2):
        await services.start_consumer(concurrency=SLOTS)
    await eventually(lambda: _starts(connection, NOISY, 10))

    await _submit_behind(connection, real_servers.amqp_url, lane)
    await eventually(lambda: _starts(connection, QUIET, 10))

    overtaken = [row["starts"] for row in await connection.fetch(_OVERTAKEN_BY, NOISY, QUIET)]
    # What is being started meanwhile; and half of the slots, while the ten wait for each other. Not
    # the 2,000 that are before them in the lane.
    assert min(overtaken) <= 2 * SLOTS
    assert max(overtaken) <= 10 + 6 * SLOTS
    waiting = await connection.fetchval(
        "SELECT count(*) FROM jobs WHERE tenant_id = $1 AND state = 'queued'", NOISY
    )
    assert waiting > FLOOD / 2


async def _submit_behind(connection: asyncpg.Connection, amqp_url: str, lane: Lane) -> None:
    """As the API does it: their pointers are the last ones in the lane."""
    quiet = [sleeping(QUIET, lane) for _ in range(10)]
    answers = await submit(connection, quiet, with_pointers=True)
    async with connected_broker(amqp_url) as broker:
        publisher = Publisher(broker, timeout_seconds=5)
        for answer in answers:
            assert isinstance(answer, Submission)
            assert answer.pointer_at is not None
            await publisher.publish(Pointer(answer.job_id, lane, "sleep", answer.pointer_at))


async def _all_are_sent(connection: asyncpg.Connection) -> bool:
    return not await connection.fetchval("SELECT count(*) FROM jobs WHERE pointer_at IS NULL")


async def _starts(connection: asyncpg.Connection, tenant_id: UUID, count: int) -> bool:
    started: int = await connection.fetchval(
        "SELECT count(*) FROM job_events WHERE tenant_id = $1 AND event = 'claim'", tenant_id
    )
    return started >= count


async def test_all_who_give_way_have_their_turn_once(
    real_servers: Servers, new_services: NewServices, connection: asyncpg.Connection, lane: Lane
) -> None:
    services = new_services(real_servers, queues=lane.queue)
    await connection.execute(
        "INSERT INTO tenant_quotas (tenant_id, running_jobs) VALUES ($1, 1)", LIMITED
    )
    for tenant_id in (NOISY, QUIET, LIMITED):
        few = [sleeping(tenant_id, lane, seconds=0.01) for _ in range(30)]
        await submit(connection, few, with_pointers=False)
    await services.start_scheduler()
    await services.start_consumer(concurrency=SLOTS)

    async def all_have_completed() -> bool:
        return await connection.fetchval("SELECT bool_and(state = 'completed') FROM jobs") is True

    # Sooner than lost pointers would be found.
    await eventually(all_have_completed, timeout=40)
    assert await connection.fetchval("SELECT max(attempt) FROM jobs") == 1
    claims = await connection.fetchval("SELECT count(*) FROM job_events WHERE event = 'claim'")
    assert claims == 90
    counts = invariants.load()["I17_use_is_counted"]
    (finding,) = await invariants.run(connection, invariants=[counts])
    assert finding.holds
