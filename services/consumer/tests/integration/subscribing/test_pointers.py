"""The way of pointers through real servers: lanes, acknowledgements, outcomes."""

from datetime import timedelta
from typing import Any

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

from .house import LANES, Post, Start, depth, reach

pytestmark = pytest.mark.broker


async def test_a_pointer_becomes_a_completed_job(jobs: Jobs, post: Post, start: Start) -> None:
    house = await start()
    job_id = await post("hello")
    await reach(jobs, job_id, "completed")
    assert house.seen == [("hello", 1)]
    assert (await jobs.row(job_id))["result"] == '"hello"'
    assert list(house.watermarks) == ["default.medium"]


async def test_the_most_urgent_come_first(jobs: Jobs, post: Post, start: Start) -> None:
    posted = [
        await post(f"{priority}{n}", priority=priority) for n in range(2) for priority in Priority
    ]
    house = await start(concurrency=1)
    for job_id in posted:
        await reach(jobs, job_id, "completed")
    # What arrives in the first moment is taken as it comes; after that the order is strict.
    order = [text.rstrip("01") for text, _ in house.seen]
    assert order[2:] == sorted(order[2:], key=lambda name: -list(Priority).index(Priority(name)))


async def test_a_running_jobs_pointer_is_acknowledged_already(
    jobs: Jobs, post: Post, start: Start, amqp_url: str
) -> None:
    async with TcpProxy(amqp_url) as proxy:
        house = await start(url=proxy.url)
        job_id = await post("once", type="held")
        await reach(jobs, job_id, "running")
        proxy.cut()
        marker = await post("after")
        await reach(jobs, marker, "completed")
        house.gate.set()
        await reach(jobs, job_id, "completed")
    assert house.seen.count(("once", 1)) == 1


async def test_a_failure_comes_back_over_the_ladder(jobs: Jobs, post: Post, start: Start) -> None:
    house = await start()
    job_id = await post("again", type="flaky")
    await reach(jobs, job_id, "completed")
    assert house.seen == [("again", 1), ("again", 2)]
    events = [event for event, _, _ in await jobs.history(job_id)]
    assert events == ["submit", "claim", "fail", "claim", "succeed"]


async def test_a_permanent_failure_is_buried(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    await start()
    job_id = await post("x", type="broken")
    await reach(jobs, job_id, "failed")

    async def buried() -> bool:
        return await depth(broker, topology.DEAD_QUEUE) == 1

    await eventually(buried)


async def first_of(broker: Broker, queue_name: str) -> bytes:
    async def first() -> AbstractIncomingMessage | None:
        async with broker.short_channel() as channel:
            queue = await channel.get_queue(queue_name)
            return await queue.get(no_ack=True, fail=False)

    return (await eventually(first)).body


async def test_garbage_is_buried_and_work_goes_on(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    garbage = {b"\xff", b"{}", b'{"v":1,"job_id":"x"}', b""}
    async with broker.short_channel() as channel:
        exchange = await channel.get_exchange(topology.JOBS_EXCHANGE)
        for body in garbage:
            await exchange.publish(Message(body), "default.medium")
    await publisher.publish(Pointer(uuid7(), LANES[1], "echo", (await _now(jobs))))
    await start()
    await reach(jobs, await post("after"), "completed")

    async def lane_is_empty() -> bool:
        return await depth(broker, "jobs.default.medium") == 0

    # Each at least once: what is buried before its lane is lost comes again.
    buried: set[bytes] = set()
    while buried != garbage:
        buried.add(await first_of(broker, topology.DEAD_QUEUE))
    await eventually(lane_is_empty)


async def test_a_stamp_ahead_of_its_time_is_no_watermark(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    # As when a retry that waits on the ladder is cancelled, or moved to an earlier time.
    ahead = await _now(jobs) + timedelta(minutes=20)
    await publisher.publish(Pointer(uuid7(), LANES[1], "echo", ahead))
    moved = await jobs.submit(payload={"text": "moved"})
    await publisher.publish(Pointer(moved, LANES[1], "echo", ahead))

    house = await start()
    await reach(jobs, moved, "completed")
    await reach(jobs, await post("after"), "completed")

    assert house.watermarks["default.medium"] <= await _now(jobs)


async def _now(jobs: Jobs) -> Any:
    return await jobs.connection.fetchval("SELECT now()")


async def test_a_pointer_that_was_replaced_does_not_circle(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    job_id = await post("who knows", type="unknown")
    lane, stamp = LANES[1], await _now(jobs)
    for _ in range(3):
        await publisher.publish(Pointer(job_id, lane, "unknown", stamp - timedelta(minutes=1)))
    async with broker.short_channel() as channel:
        await (await channel.get_queue(topology.retry_exchange(5))).purge()

    await start()
    await reach(jobs, await post("after"), "completed")

    async def lane_is_empty() -> bool:
        return await depth(broker, "jobs.default.medium") == 0

    async def one_was_sent_on() -> bool:
        return await depth(broker, topology.retry_exchange(5)) == 1

    await eventually(lane_is_empty)
    await eventually(one_was_sent_on)
