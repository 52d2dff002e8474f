import time
from uuid import UUID

import pytest
from aio_pika.abc import AbstractIncomingMessage

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.relay import Relay
from taskflow_scheduler.loops.rescue import RescueOrphans
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

BEAT = 0.5


async def lose(jobs: Jobs, **changes: object) -> UUID:
    job_id = (await jobs.start(**changes)).attempt.job_id
    await jobs.connection.execute(
        "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = $1", job_id
    )
    return job_id


async def rounds_until_rescued(loop: RescueOrphans) -> float:
    """How long it took (seconds)."""
    began_at = time.monotonic()
    before = loop.rescued

    async def rescued() -> bool:
        await loop.round()
        return loop.rescued > before

    await eventually(rescued)
    return time.monotonic() - began_at


async def test_a_new_leader_holds_off_for_two_beats_then_acts_at_once(
    jobs: Jobs, database: Database, relay: Relay
) -> None:
    loop = RescueOrphans(database, relay, heartbeat_seconds=BEAT)
    first = await lose(jobs)
    assert await rounds_until_rescued(loop) >= 2 * BEAT
    assert await jobs.state(first) == "retrying"
    await lose(jobs)
    assert await rounds_until_rescued(loop) < 2 * BEAT


async def test_an_outage_starts_the_hold_off_anew(
    jobs: Jobs, database: Database, relay: Relay
) -> None:
    loop = RescueOrphans(database, relay, heartbeat_seconds=BEAT)
    await lose(jobs)
    await rounds_until_rescued(loop)
    await jobs.connection.execute("ALTER TABLE jobs RENAME TO jobs_away")
    try:
        with pytest.raises(Exception, match="jobs"):
            await loop.round()
    finally:
        await jobs.connection.execute("ALTER TABLE jobs_away RENAME TO jobs")
    await lose(jobs)
    assert await rounds_until_rescued(loop) >= 2 * BEAT


async def test_a_gap_starts_the_hold_off_anew(
    jobs: Jobs, database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = RescueOrphans(database, relay, heartbeat_seconds=BEAT)
    await lose(jobs)
    await rounds_until_rescued(loop)
    await lose(jobs)
    woken_at = time.monotonic() + 10 * BEAT
    monkeypatch.setattr(loop._contact, "_clock", lambda: woken_at)
    await loop.round()
    assert loop.rescued == 1


async def test_no_database_is_an_error_of_the_round(database: Database, relay: Relay) -> None:
    loop = RescueOrphans(database, relay, heartbeat_seconds=BEAT)
    await database.close()
    with pytest.raises(ServiceUnavailable):
        await loop.round()


async def test_a_job_without_attempts_left_is_buried(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay
) -> None:
    async with broker.short_channel() as channel:
        queue = await channel.get_queue(topology.DEAD_QUEUE)
        await queue.purge()
        loop = RescueOrphans(database, relay, heartbeat_seconds=BEAT)
        job_id = await lose(jobs, max_attempts=1)
        await rounds_until_rescued(loop)

        async def buried() -> AbstractIncomingMessage | None:
            return await queue.get(fail=False)

        dead = await eventually(buried)
        assert dead.message_id == str(job_id)
        assert dead.headers["reason"] == "worker_lost"
        await dead.ack()
    assert await jobs.state(job_id) == "failed"
