"""One destination that confirms nothing, beside others that do."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.errors import PublishFailed, PublishTimedOut
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.relay import WINDOW, Dispatch, Relay
from taskflow_testing.clients import connected_broker
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        yield broker


class HalfMute(Publisher):
    """A broker of which one lane confirms nothing, as a queue does without its majority."""

    def __init__(self, broker: Broker, mute: Lane) -> None:
        super().__init__(broker, timeout_seconds=5)
        self._mute = mute
        self.unanswered = 0
        self.gives_up = asyncio.Event()

    async def publish_many(
        self, pointers: Sequence[Pointer], delay_seconds: float = 0.0
    ) -> list[PublishFailed | None]:
        if pointers[0].lane != self._mute:
            return await super().publish_many(pointers, delay_seconds)
        self.unanswered += len(pointers)
        await self.gives_up.wait()
        return [PublishTimedOut("not confirmed") for _ in pointers]


@pytest.fixture
def publisher(broker: Broker, lane: Lane) -> HalfMute:
    return HalfMute(broker, Lane(lane.queue, Priority.LOW))


@pytest.fixture
async def relay(publisher: HalfMute, database: Database) -> AsyncIterator[Relay]:
    relay = Relay(publisher, database)
    relay.start()
    yield relay
    await relay.stop(0)


async def dispatches(jobs: Jobs, lane: Lane, count: int) -> list[Dispatch]:
    ids = [await jobs.submit(queue=lane.queue, priority=lane.priority) for _ in range(count)]
    rows = [await jobs.row(job_id) for job_id in ids]
    return [Dispatch(Pointer(row["id"], lane, "echo", row["pointer_at"])) for row in rows]


async def depth(broker: Broker, lane: Lane) -> int:
    async with broker.short_channel() as channel:
        queue = await channel.declare_queue(topology.lane_queue(lane), passive=True)
        return queue.declaration_result.message_count or 0


async def unstamped(jobs: Jobs) -> int:
    count = await jobs.connection.fetchval("SELECT count(*) FROM jobs WHERE pointer_at IS NULL")
    return int(count)


async def test_a_lane_that_confirms_nothing_holds_up_no_other(
    jobs: Jobs, broker: Broker, publisher: HalfMute, relay: Relay, lane: Lane
) -> None:
    mute = await dispatches(jobs, Lane(lane.queue, Priority.LOW), WINDOW + 10)
    others = await dispatches(jobs, lane, 30)

    relay.send(mute)
    await asyncio.wait_for(relay.send(others).wait(), 5)

    assert await depth(broker, lane) == len(others)
    assert publisher.unanswered == WINDOW // 2
    assert relay.lanes_under_way == {Lane(lane.queue, Priority.LOW)}


async def test_what_waits_for_a_lane_that_timed_out_is_left_to_the_scheduler(
    jobs: Jobs, publisher: HalfMute, relay: Relay, lane: Lane
) -> None:
    given = relay.send(await dispatches(jobs, Lane(lane.queue, Priority.LOW), WINDOW + 10))
    await asyncio.sleep(0)
    publisher.gives_up.set()

    await asyncio.wait_for(given.wait(), 5)

    assert publisher.unanswered <= WINDOW
    assert await unstamped(jobs) == WINDOW + 10
    await asyncio.wait_for(relay.wait_idle(), 5)
    assert relay.lanes_under_way == set()


async def test_a_lane_is_tried_anew_by_what_comes_after_its_time_out(
    jobs: Jobs, publisher: HalfMute, relay: Relay, lane: Lane
) -> None:
    mute = Lane(lane.queue, Priority.LOW)
    publisher.gives_up.set()
    await relay.send(await dispatches(jobs, mute, 1)).wait()
    await relay.send(await dispatches(jobs, mute, 1)).wait()
    assert publisher.unanswered == 2


async def test_a_relay_that_stops_writes_down_what_has_no_confirm(
    jobs: Jobs, publisher: HalfMute, relay: Relay, lane: Lane
) -> None:
    relay.send(await dispatches(jobs, Lane(lane.queue, Priority.LOW), WINDOW // 2 + 5))

    async def all_in_flight() -> bool:
        return publisher.unanswered == WINDOW // 2

    await eventually(all_in_flight)
    with capture_logs() as logs:
        await relay.stop(0)
    assert await unstamped(jobs) == WINDOW // 2 + 5
    (stopped,) = (each for each in logs if each["event"] == "relay_stopped_early")
    assert stopped["waiting"] == WINDOW // 2 + 5
