import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.errors import PublishFailed
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.relay import Relay
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.loops.dispatch import DispatchDue
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker


async def submit_undispatched(jobs: Jobs, lane: Lane, count: int = 1) -> list[UUID]:
    first = await jobs.submit(queue=lane.queue, priority=lane.priority)
    copies = await jobs.connection.fetch(
        """
        INSERT INTO jobs (id, tenant_id, type, queue, priority, state, payload, run_at,
                          max_attempts, attempt_limit)
        SELECT gen_random_uuid(), tenant_id, type, queue, priority, state, payload, run_at,
               max_attempts, attempt_limit
        FROM jobs, generate_series(2, $2) WHERE id = $1 RETURNING id
        """,
        first,
        count,
    )
    ids = [first, *(row["id"] for row in copies)]
    await jobs.connection.execute("UPDATE jobs SET pointer_at = NULL WHERE id = ANY($1)", ids)
    return ids


async def test_due_jobs_are_sent_to_their_lane(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay, lane: Lane
) -> None:
    await submit_undispatched(jobs, lane, SLICE + 20)
    dispatch = DispatchDue(database, relay)

    assert await dispatch.round()

    async def all_there() -> bool:
        # While a slice is on its way, the next round leaves its lane alone.
        await dispatch.round()
        return await LaneDepths(broker).look(lane) == SLICE + 20

    await eventually(all_there)
    assert not await dispatch.round()
    assert await LaneDepths(broker).look(lane) == SLICE + 20
    assert await jobs.connection.fetchval("SELECT count(*) FROM jobs WHERE pointer_at IS NULL") == 0


async def test_nothing_is_stamped_without_a_broker(
    jobs: Jobs, database: Database, broker: Broker, relay: Relay, lane: Lane
) -> None:
    (job_id,) = await submit_undispatched(jobs, lane)
    await broker.close()
    assert not await DispatchDue(database, relay).round()
    assert (await jobs.row(job_id))["pointer_at"] is None


class RefusingPublisher(Publisher):
    """A broker that refuses one lane, as a queue does whose policy bounds it."""

    refused: Lane
    refusals = 0

    async def publish_many(
        self, pointers: Sequence[Pointer], delay_seconds: float = 0.0
    ) -> list[PublishFailed | None]:
        if pointers[0].lane == self.refused:
            self.refusals += len(pointers)
            return [PublishFailed("the queue is full") for _ in pointers]
        return await super().publish_many(pointers, delay_seconds)


async def test_a_lane_that_refuses_does_not_starve_the_others(
    jobs: Jobs, database: Database, broker: Broker, lane: Lane
) -> None:
    publisher = RefusingPublisher(broker, timeout_seconds=5)
    publisher.refused = Lane(lane.queue, Priority.LOW)
    refused = await submit_undispatched(jobs, publisher.refused, 2 * SLICE)
    await jobs.connection.execute("UPDATE jobs SET run_at = run_at - interval '1 hour'")
    await submit_undispatched(jobs, lane, 3)
    relay = Relay(publisher, database)
    relay.start()
    dispatch = DispatchDue(database, relay)

    rounds = 1
    while await dispatch.round():
        rounds += 1
    await relay.stop(5)

    assert await LaneDepths(broker).look(lane) == 3
    assert rounds <= 4
    assert publisher.refusals <= 3 * SLICE
    unsent = await jobs.connection.fetch("SELECT id FROM jobs WHERE pointer_at IS NULL")
    assert sorted(row["id"] for row in unsent) == sorted(refused)


class MutePublisher(Publisher):
    """A broker of which one lane confirms nothing, as a queue does without its majority."""

    mute: Lane
    unanswered = 0

    async def publish_many(
        self, pointers: Sequence[Pointer], delay_seconds: float = 0.0
    ) -> list[PublishFailed | None]:
        if pointers[0].lane == self.mute:
            self.unanswered += len(pointers)
            await asyncio.Event().wait()
        return await super().publish_many(pointers, delay_seconds)


async def test_a_lane_that_confirms_nothing_delays_the_others_by_a_moment(
    jobs: Jobs, database: Database, broker: Broker, lane: Lane
) -> None:
    publisher = MutePublisher(broker, timeout_seconds=5)
    publisher.mute = Lane(lane.queue, Priority.LOW)
    await submit_undispatched(jobs, publisher.mute, 2 * SLICE)
    await jobs.connection.execute("UPDATE jobs SET run_at = run_at - interval '1 hour'")
    await submit_undispatched(jobs, lane, 3)
    relay = Relay(publisher, database)
    relay.start()
    dispatch = DispatchDue(database, relay)

    async with asyncio.timeout(5):
        while await dispatch.round():
            pass

    assert await LaneDepths(broker).look(lane) == 3
    # Nor does it get another slice while one is on its way.
    left = "SELECT count(*) FROM jobs WHERE priority = 'low' AND pointer_at IS NULL"
    assert await jobs.connection.fetchval(left) == SLICE
    await relay.stop(0)
