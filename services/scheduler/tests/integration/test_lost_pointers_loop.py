import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from taskflow.broker.connection import Broker
from taskflow.broker.message import decode
from taskflow.broker.topology import lane_queue
from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.dispatch import SLICE, stamp_due
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.jobs.workers import WorkerRegistration, beat_worker, register_worker
from taskflow.relay import Dispatch, Relay
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.loops.dispatch import publish
from taskflow_scheduler.loops.lost_pointers import RepublishLost
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

LOST_AFTER = 0.6


@pytest.fixture
async def depths(broker: Broker) -> AsyncIterator[LaneDepths]:
    depths = LaneDepths(broker)
    yield depths
    await depths.close()


@pytest.fixture
def loop(database: Database, relay: Relay, depths: LaneDepths) -> RepublishLost:
    return RepublishLost(
        database, relay, depths, lost_after_seconds=LOST_AFTER, longest_gap_seconds=0.5
    )


async def send(jobs: Jobs, relay: Relay, lane: Lane, count: int = 1) -> list[UUID]:
    """Jobs whose pointers are in the broker."""
    ids = [await jobs.submit(queue=lane.queue, priority=lane.priority) for _ in range(count)]
    await jobs.connection.execute("UPDATE jobs SET pointer_at = NULL WHERE id = ANY($1)", ids)
    while stamped := await stamp_due(jobs.connection):
        await publish(relay, stamped)
    return ids


async def purge(broker: Broker, lane: Lane) -> None:
    async with broker.short_channel() as channel:
        await (await channel.get_queue(lane_queue(lane))).purge()


async def contents(broker: Broker, lane: Lane) -> list[UUID]:
    found = []
    async with broker.short_channel() as channel:
        queue = await channel.get_queue(lane_queue(lane))
        while message := await queue.get(fail=False):
            found.append(decode(message.body, dict(message.headers)).job_id)
    return found


async def rounds_until_old(loop: RepublishLost, jobs: Jobs) -> None:
    """Rounds, until every pointer is old enough to be lost and has been looked at since."""

    async def old() -> bool:
        await loop.round()
        return bool(
            await jobs.connection.fetchval(
                "SELECT max(pointer_at) < now() - make_interval(secs => $1) FROM jobs",
                2 * LOST_AFTER,
            )
        )

    await eventually(old)


async def rounds_until_republished(loop: RepublishLost, count: int) -> None:
    async def republished() -> bool:
        await loop.round()
        return loop.republished >= count

    await eventually(republished, timeout=30)


async def test_a_purged_lane_is_filled_again(
    jobs: Jobs, broker: Broker, relay: Relay, loop: RepublishLost, lane: Lane
) -> None:
    ids = await send(jobs, relay, lane, 20)
    await purge(broker, lane)

    await rounds_until_republished(loop, 20)

    assert sorted(await contents(broker, lane)) == sorted(ids)
    assert loop.republished == 20


class SlowDepths(LaneDepths):
    async def look(self, lane: Lane) -> int:
        await asyncio.sleep(0.1)
        return await super().look(lane)


async def test_a_round_may_take_longer_than_the_longest_gap(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay
) -> None:
    depths = SlowDepths(broker)
    loop = RepublishLost(
        database, relay, depths, lost_after_seconds=LOST_AFTER, longest_gap_seconds=0.25
    )
    # None of them has a queue.
    for number in range(4):
        await jobs.submit(queue=f"slow{number}")
    await rounds_until_republished(loop, 4)
    await depths.close()


async def test_more_than_a_slice_is_republished_once_though_the_first_fills_the_lane(
    jobs: Jobs, broker: Broker, relay: Relay, loop: RepublishLost, lane: Lane
) -> None:
    ids = await send(jobs, relay, lane, SLICE + 50)
    await purge(broker, lane)
    assert not await loop.round()

    await rounds_until_republished(loop, SLICE + 50)

    assert sorted(await contents(broker, lane)) == sorted(ids)
    assert loop.republished == SLICE + 50


async def test_a_lane_whose_queue_is_missing_counts_as_empty(
    jobs: Jobs, broker: Broker, loop: RepublishLost, lane: Lane
) -> None:
    job_id = await jobs.submit(queue=lane.queue)
    await rounds_until_republished(loop, 1)
    assert await contents(broker, lane) == [job_id]


async def test_pointers_that_wait_in_their_lane_are_not_lost(
    jobs: Jobs, broker: Broker, relay: Relay, loop: RepublishLost, lane: Lane
) -> None:
    ids = await send(jobs, relay, lane, 3)
    await rounds_until_old(loop, jobs)
    assert loop.republished == 0
    assert sorted(await contents(broker, lane)) == sorted(ids)


async def test_overtaken_pointers_are_lost_though_their_lane_is_not_empty(
    jobs: Jobs, broker: Broker, relay: Relay, loop: RepublishLost, lane: Lane
) -> None:
    (lost,) = await send(jobs, relay, lane)
    await purge(broker, lane)
    other = await jobs.submit(queue=lane.queue)
    stamp = (await jobs.row(other))["pointer_at"]
    relay.send([Dispatch(Pointer(other, lane, "echo", stamp))])
    await relay.wait_idle()
    worker = WorkerRegistration(jobs.worker_id, "host", 1, "1", [], ["echo"], 1)
    await register_worker(jobs.connection, worker)

    async def republished() -> bool:
        now = await jobs.connection.fetchval("SELECT clock_timestamp()")
        await beat_worker(jobs.connection, jobs.worker_id, {lane: now})
        await loop.round()
        return loop.republished > 0

    await eventually(republished)
    assert (await contents(broker, lane))[:2] == [other, lost]


async def test_a_lane_must_be_empty_at_every_look(
    jobs: Jobs, broker: Broker, relay: Relay, loop: RepublishLost, lane: Lane
) -> None:
    await send(jobs, relay, lane)
    await purge(broker, lane)
    await loop.round()
    await asyncio.sleep(LOST_AFTER + 0.1)
    await loop.round()
    assert loop.republished == 0  # It was not looked at for long, which begins the series anew.
    await rounds_until_republished(loop, 1)


async def test_a_lane_that_cannot_be_seen_hides_no_other(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay, lane: Lane
) -> None:
    class Blind(LaneDepths):
        async def look(self, seen: Lane) -> int:
            if seen.priority is Priority.LOW:
                raise ServiceUnavailable("RabbitMQ", "the queue has no leader")
            return await super().look(seen)

    blind = Blind(broker)
    loop = RepublishLost(
        database, relay, blind, lost_after_seconds=LOST_AFTER, longest_gap_seconds=0.5
    )
    await jobs.submit(queue=lane.queue, priority=Priority.LOW)
    job_id = await jobs.submit(queue=lane.queue)
    await rounds_until_republished(loop, 1)
    assert await contents(broker, lane) == [job_id]
    await blind.close()


class WithoutLeader(LaneDepths):
    """What RabbitMQ says of a quorum queue whose leader doesn't answer: 0 messages."""

    looks = 0

    async def look(self, _: Lane) -> int:
        self.looks += 1
        return 0


async def rounds_until_looked(loop: RepublishLost, depths: WithoutLeader, seconds: float) -> None:
    ends_at = asyncio.get_running_loop().time() + seconds

    async def long_enough() -> bool:
        await loop.round()
        return depths.looks > 5 and asyncio.get_running_loop().time() > ends_at

    await eventually(long_enough)


async def test_a_queue_that_is_only_said_to_be_empty_is_not_filled_twice(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay, lane: Lane
) -> None:
    ids = await send(jobs, relay, lane, 20)
    depths = WithoutLeader(broker)
    loop = RepublishLost(
        database, relay, depths, lost_after_seconds=LOST_AFTER, longest_gap_seconds=0.5
    )

    await rounds_until_looked(loop, depths, 3 * LOST_AFTER)

    assert loop.republished == 0
    assert sorted(await contents(broker, lane)) == sorted(ids)
    await depths.close()


async def test_a_queue_that_does_not_answer_counts_as_unseen(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay, lane: Lane
) -> None:
    class Silent(WithoutLeader):
        async def is_proven_empty(self, _: Lane) -> bool:
            raise ServiceUnavailable("RabbitMQ", "the queue has no leader")

    await send(jobs, relay, lane, 3)
    await purge(broker, lane)
    depths = Silent(broker)
    loop = RepublishLost(
        database, relay, depths, lost_after_seconds=LOST_AFTER, longest_gap_seconds=0.5
    )
    await rounds_until_looked(loop, depths, 3 * LOST_AFTER)
    assert loop.republished == 0


async def test_only_the_queue_itself_proves_that_it_is_empty(
    jobs: Jobs, broker: Broker, relay: Relay, depths: LaneDepths, lane: Lane
) -> None:
    assert await depths.is_proven_empty(lane)  # There is no such queue.
    ids = await send(jobs, relay, lane, 2)
    assert not await depths.is_proven_empty(lane)

    async def has_both() -> bool:
        return await depths.look(lane) == 2

    await eventually(has_both)
    assert sorted(await contents(broker, lane)) == sorted(ids)
    await purge(broker, lane)
    assert await depths.is_proven_empty(lane)
