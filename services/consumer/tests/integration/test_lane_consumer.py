"""One lane's channel against a real broker."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.deliveries import Delivery
from taskflow.broker.message import decode
from taskflow.broker.publisher import Publisher
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_testing.clients import connected_broker
from taskflow_testing.waiting import eventually

from .consuming import consuming

pytestmark = pytest.mark.broker

LANE = Lane("returned", Priority.MEDIUM)


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        async with broker.short_channel() as channel:
            await channel.queue_delete(topology.lane_queue(LANE))
            await topology.declare_lane(channel, LANE)
        yield broker
        async with broker.short_channel() as channel:
            await channel.queue_delete(topology.lane_queue(LANE))


@pytest.fixture
async def consumer(broker: Broker) -> AsyncIterator[LaneConsumer]:
    async with consuming(broker, LANE) as consumer:
        yield consumer


async def publish(broker: Broker, count: int) -> list[Pointer]:
    publisher = Publisher(broker, timeout_seconds=5)
    pointers = [Pointer(uuid7(), LANE, "echo", datetime.now(UTC)) for _ in range(count)]
    for pointer in pointers:
        await publisher.publish(pointer)
    return pointers


async def consume(consumer: LaneConsumer, count: int, *, take: int | None = None) -> list[Delivery]:
    await consumer.resume()

    async def all_came() -> bool:
        return len(consumer) == count

    await eventually(all_came)
    return consumer.take(count if take is None else take)


async def is_ready_again(broker: Broker, count: int) -> None:
    async def all_are_there() -> bool:
        async with broker.short_channel() as channel:
            queue = await channel.declare_queue(topology.lane_queue(LANE), passive=True)
            return queue.declaration_result.message_count == count

    await eventually(all_are_there)


async def test_what_is_delivered_is_what_was_published(
    broker: Broker, consumer: LaneConsumer
) -> None:
    pointers = await publish(broker, 3)
    received = [decode(each.body, each.headers) for each in await consume(consumer, 3)]
    assert [each.job_id for each in received] == [each.job_id for each in pointers]
    for was, became in zip(pointers, received, strict=True):
        assert became.pointer_at is not None
        assert abs((became.pointer_at - was.pointer_at).total_seconds()) <= 0.001


async def test_what_is_with_a_claim_does_not_go_back_with_the_rest(
    broker: Broker, consumer: LaneConsumer
) -> None:
    await publish(broker, 4)
    _, claimed = await consume(consumer, 4, take=2)
    await consumer.hand_back()
    await is_ready_again(broker, 2)
    await consumer.acknowledge_through(claimed)
    await consumer.close()
    await is_ready_again(broker, 2)


async def test_what_arrives_when_nothing_is_wanted_any_more_goes_back(
    broker: Broker, consumer: LaneConsumer
) -> None:
    await publish(broker, 4)
    first, *late = await consume(consumer, 4)
    await consumer.hand_back()
    consumer.receive(late)
    await is_ready_again(broker, 3)
    await consumer.acknowledge_through(first)
    assert len(consumer) == 0


async def test_what_is_on_its_way_back_is_not_acknowledged_by_what_came_after_it(
    broker: Broker, consumer: LaneConsumer
) -> None:
    await publish(broker, 4)
    *late, claimed = await consume(consumer, 4)
    await consumer.hand_back()
    consumer.receive(late)
    await consumer.acknowledge_through(claimed)
    await is_ready_again(broker, 3)


async def test_a_channel_that_the_broker_closes_says_why(broker: Broker) -> None:
    said: list[str] = []
    async with consuming(broker, LANE, on_lost=said.append) as consumer:
        await publish(broker, 1)
        (claimed,) = await consume(consumer, 1)
        for _ in range(2):
            await consumer.acknowledge_through(claimed)

        async def is_lost() -> bool:
            return bool(said)

        await eventually(is_lost)
    assert said[0].startswith("returned.medium: PRECONDITION_FAILED - unknown delivery tag 1")


async def test_a_lane_that_is_deleted_says_so(broker: Broker) -> None:
    said: list[str] = []
    async with consuming(broker, LANE, on_lost=said.append) as consumer:
        await consumer.resume()
        async with broker.short_channel() as channel:
            await channel.queue_delete(topology.lane_queue(LANE))

        async def is_lost() -> bool:
            return bool(said)

        await eventually(is_lost)
    assert said[0] == "returned.medium: the broker has cancelled its consumer"
