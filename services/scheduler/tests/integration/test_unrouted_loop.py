from collections.abc import AsyncIterator

import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.message import encode
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.relay import Relay
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.loops.dispatch import DispatchDue
from taskflow_scheduler.loops.unrouted import ReturnUnrouted
from taskflow_testing.jobs import Jobs
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker


@pytest.fixture(autouse=True)
async def empty_queues(broker: Broker) -> AsyncIterator[None]:
    await purge(broker)
    yield
    await purge(broker)


async def purge(broker: Broker) -> None:
    async with broker.short_channel() as channel:
        for name in (topology.UNROUTED_QUEUE, topology.DEAD_QUEUE):
            await (await channel.get_queue(name)).purge()


async def depth(broker: Broker, name: str) -> int:
    async with broker.short_channel() as channel:
        queue = await channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0


async def misroute(broker: Broker, key: str, *messages: Message) -> None:
    """Publish to a lane that doesn't exist."""
    channel = await broker.channel(publisher_confirms=True)
    exchange = await channel.get_exchange(topology.JOBS_EXCHANGE)
    for message in messages:
        await exchange.publish(message, routing_key=key)
    await channel.close()


async def test_unrouted_pointers_reach_their_lane_after_all(  # noqa: PLR0917 - fixtures
    jobs: Jobs, database: Database, broker: Broker, publisher: Publisher, relay: Relay, lane: Lane
) -> None:
    count = SLICE + 5
    ids = [await jobs.submit(queue=lane.queue) for _ in range(count)]
    stamp = await jobs.connection.fetchval("SELECT max(pointer_at) FROM jobs")
    pointers = [encode(Pointer(job_id, lane, "echo", stamp)) for job_id in ids]
    await misroute(broker, lane.key, *pointers)
    unrouted = ReturnUnrouted(database, broker, publisher)
    assert await depth(broker, topology.UNROUTED_QUEUE) == count

    while await unrouted.round():
        pass
    dispatch = DispatchDue(database, relay)
    while await dispatch.round():
        pass

    assert await depth(broker, topology.UNROUTED_QUEUE) == 0
    assert await LaneDepths(broker).look(lane) == count


async def test_a_pointer_that_was_replaced_is_let_go(
    jobs: Jobs, database: Database, broker: Broker, publisher: Publisher, lane: Lane
) -> None:
    job_id = await jobs.submit(queue=lane.queue)
    stamp = (await jobs.row(job_id))["pointer_at"]
    await jobs.connection.execute("UPDATE jobs SET pointer_at = now() + interval '1 s'")
    await misroute(broker, lane.key, encode(Pointer(job_id, lane, "echo", stamp)))

    await ReturnUnrouted(database, broker, publisher).round()

    assert (await jobs.row(job_id))["pointer_at"] is not None
    assert await depth(broker, topology.UNROUTED_QUEUE) == 0


async def test_what_is_no_pointer_goes_to_the_dead_with_a_reason(
    jobs: Jobs, database: Database, broker: Broker, publisher: Publisher, lane: Lane
) -> None:
    bad = Message(
        b"{", headers={"a": 1}, delivery_mode=DeliveryMode.PERSISTENT, message_id="the bad one"
    )
    await misroute(broker, lane.key, bad)

    assert not await ReturnUnrouted(database, broker, publisher).round()

    async with broker.short_channel() as channel:
        queue = await channel.get_queue(topology.DEAD_QUEUE)

        async def buried() -> AbstractIncomingMessage | None:
            return await queue.get(fail=False)

        dead = await eventually(buried)
        assert (dead.body, dead.message_id, dead.routing_key) == (b"{", "the bad one", lane.key)
        assert dead.headers["reason"] == "the body is not JSON"
        assert dead.headers["a"] == 1
        await dead.ack()
    assert await depth(broker, topology.UNROUTED_QUEUE) == 0


async def test_nothing_is_taken_while_postgresql_is_away(
    jobs: Jobs, database: Database, broker: Broker, publisher: Publisher, lane: Lane
) -> None:
    job_id = await jobs.submit(queue=lane.queue)
    stamp = (await jobs.row(job_id))["pointer_at"]
    await misroute(broker, lane.key, encode(Pointer(job_id, lane, "echo", stamp)))
    await database.close()

    with pytest.raises(Exception, match="PostgreSQL"):
        await ReturnUnrouted(database, broker, publisher).round()

    async with broker.short_channel() as channel:
        message = await (await channel.get_queue(topology.UNROUTED_QUEUE)).get()
        assert message is not None
        assert not message.redelivered
        await message.ack()
