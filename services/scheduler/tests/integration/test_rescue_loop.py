import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import DeliveredMessage

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.relay import Relay
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.loops.rescue import RescueOrphans
from taskflow_scheduler.loops.unclaimed import RepeatPointers
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

BEAT = 0.5


@pytest.fixture
def unclaimed(database: Database, broker: Broker, relay: Relay) -> RepeatPointers:
    return RepeatPointers(database, relay, LaneDepths(broker))


@pytest.fixture
def loop(database: Database, relay: Relay, unclaimed: RepeatPointers) -> RescueOrphans:
    return RescueOrphans(database, relay, unclaimed, heartbeat_seconds=BEAT)


async def lose(jobs: Jobs, **changes: object) -> UUID:
    job_id = (await jobs.start(**changes)).attempt.job_id
    await jobs.connection.execute(
        "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = $1", job_id
    )
    return job_id


async def until_in_lane(broker: Broker, lane: Lane) -> None:
    depths = LaneDepths(broker)

    async def is_there() -> bool:
        return await depths.look(lane) == 1

    await eventually(is_there)
    await depths.close()


def refuse() -> None:
    raise ServiceUnavailable("PostgreSQL", "it is away")


async def rounds_until_rescued(loop: RescueOrphans) -> float:
    """How long it took (seconds)."""
    began_at = time.monotonic()
    before = loop.rescued

    async def rescued() -> bool:
        await loop.round()
        return loop.rescued > before

    await eventually(rescued)
    return time.monotonic() - began_at


async def watch_for_two_beats(loop: RescueOrphans) -> None:
    until = time.monotonic() + 2 * BEAT
    while time.monotonic() < until:
        await loop.watch()
        await asyncio.sleep(BEAT / 10)


async def test_a_new_leader_holds_off_for_two_beats_then_acts_at_once(
    jobs: Jobs, loop: RescueOrphans
) -> None:
    first = await lose(jobs)
    assert await rounds_until_rescued(loop) >= 2 * BEAT
    assert await jobs.state(first) == "retrying"
    await lose(jobs)
    assert await rounds_until_rescued(loop) < 2 * BEAT


async def test_who_has_watched_for_two_beats_acts_at_once_when_it_leads(
    jobs: Jobs, loop: RescueOrphans
) -> None:
    job_id = await lose(jobs)
    # A machine that is busy for a beat begins the hold-off anew. Nothing but the watch can end it:
    # the rounds are further apart than a contact lasts.
    for _ in range(5):
        assert await jobs.state(job_id) == "running"
        await watch_for_two_beats(loop)
        await loop.round()
        if loop.rescued:
            break
    assert await jobs.state(job_id) == "retrying"


async def test_an_outage_while_it_watches_starts_the_hold_off_anew(
    jobs: Jobs, database: Database, loop: RescueOrphans
) -> None:
    await lose(jobs)
    await rounds_until_rescued(loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "connection", refuse)
        with pytest.raises(ServiceUnavailable):
            await loop.watch()
    await lose(jobs)
    assert await rounds_until_rescued(loop) >= 2 * BEAT


async def test_an_outage_starts_the_hold_off_anew(jobs: Jobs, loop: RescueOrphans) -> None:
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
    jobs: Jobs, loop: RescueOrphans, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lose(jobs)
    await rounds_until_rescued(loop)
    await lose(jobs)
    woken_at = time.monotonic() + 10 * BEAT
    monkeypatch.setattr(loop._contact, "_clock", lambda: woken_at)
    await loop.round()
    assert loop.rescued == 1


async def test_no_database_is_an_error_of_the_round(
    database: Database, loop: RescueOrphans
) -> None:
    await database.close()
    with pytest.raises(ServiceUnavailable):
        await loop.round()


async def test_a_job_without_attempts_left_is_buried(
    jobs: Jobs, broker: Broker, loop: RescueOrphans
) -> None:
    async with broker.short_channel() as channel:
        queue = await channel.get_queue(topology.DEAD_QUEUE)
        await queue.purge()
        job_id = await lose(jobs, max_attempts=1)
        await rounds_until_rescued(loop)

        async def buried() -> AbstractIncomingMessage | None:
            return await queue.get(fail=False)

        dead = await eventually(buried)
        assert dead.message_id == str(job_id)
        assert dead.headers["reason"] == "worker_lost"
        await dead.ack()
    assert await jobs.state(job_id) == "failed"


async def test_a_rescued_job_is_published_in_the_same_round(
    jobs: Jobs, broker: Broker, loop: RescueOrphans, lane: Lane
) -> None:
    job_id = await lose(jobs, queue=lane.queue)
    await rounds_until_rescued(loop)
    assert (await jobs.row(job_id))["pointer_at"] is not None
    await until_in_lane(broker, lane)


async def test_without_the_broker_a_rescued_job_is_left_to_the_dispatch(
    jobs: Jobs, broker: Broker, loop: RescueOrphans, lane: Lane
) -> None:
    await broker.close()
    job_id = await lose(jobs, queue=lane.queue)
    await rounds_until_rescued(loop)
    assert (await jobs.row(job_id))["pointer_at"] is None


@asynccontextmanager
async def frozen_worker(broker: Broker, lane: Lane) -> AsyncIterator[list[str | None]]:
    """Somebody who takes what comes to a lane, and claims nothing; the ids of its messages."""
    async with broker.short_channel() as channel:
        await topology.declare_lane(channel, lane)
        held: list[str | None] = []
        underlay = await channel.get_underlay_channel()

        async def hold(message: DeliveredMessage) -> None:
            held.append(message.header.properties.message_id)

        await underlay.basic_consume(topology.lane_queue(lane), hold)
        yield held


async def test_a_pointer_that_a_frozen_worker_holds_is_followed_by_others(
    jobs: Jobs, broker: Broker, unclaimed: RepeatPointers, loop: RescueOrphans, lane: Lane
) -> None:
    async with frozen_worker(broker, lane) as held:
        job_id = await lose(jobs, queue=lane.queue)
        await rounds_until_rescued(loop)

        async def is_repeated() -> bool:
            await unclaimed.round()
            return unclaimed.repeated >= 2

        await eventually(is_repeated)

        async def holds_all() -> bool:
            return len(held) == 3

        await eventually(holds_all)
        assert set(held) == {str(job_id)}
        # Once it is claimed, no further one follows.
        await jobs.claim(job_id)

        async def watches_nothing() -> bool:
            await unclaimed.round()
            return not unclaimed._watched

        await eventually(watches_nothing)
        assert unclaimed.repeated == 2


async def test_an_outage_of_the_database_lets_no_pointer_be_forgotten(
    jobs: Jobs, broker: Broker, unclaimed: RepeatPointers, loop: RescueOrphans, lane: Lane
) -> None:
    async with frozen_worker(broker, lane):
        await lose(jobs, queue=lane.queue)
        await rounds_until_rescued(loop)

        async def meets_the_outage() -> bool:
            try:
                await unclaimed.round()
            except ServiceUnavailable:
                return True
            return False

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(unclaimed._database, "connection", refuse)
            await eventually(meets_the_outage)

        async def is_repeated() -> bool:
            await unclaimed.round()
            return unclaimed.repeated == 1

        await eventually(is_repeated)


async def test_a_pointer_that_waits_in_its_lane_is_not_repeated(
    jobs: Jobs,
    broker: Broker,
    unclaimed: RepeatPointers,
    loop: RescueOrphans,
    lane: Lane,
) -> None:
    await lose(jobs, queue=lane.queue)
    await rounds_until_rescued(loop)
    await until_in_lane(broker, lane)
    now = time.monotonic()
    for second in range(1, 30):
        unclaimed._clock = functools.partial(float, now + second)
        await unclaimed.round()
    assert (unclaimed.repeated, unclaimed._watched) == (0, [])


async def test_a_lane_without_messages_or_consumers_says_nothing(
    jobs: Jobs,
    broker: Broker,
    unclaimed: RepeatPointers,
    loop: RescueOrphans,
    lane: Lane,
) -> None:
    await lose(jobs, queue=lane.queue)
    await rounds_until_rescued(loop)
    await until_in_lane(broker, lane)
    # Which is how RabbitMQ answers for a queue without a leader, whatever is in it.
    async with broker.short_channel() as channel:
        await (await channel.get_queue(topology.lane_queue(lane))).purge()
    now = time.monotonic()
    for second in range(1, 30):
        unclaimed._clock = functools.partial(float, now + second)
        await unclaimed.round()
    assert (unclaimed.repeated, unclaimed._watched) == (0, [])
