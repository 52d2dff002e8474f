"""What becomes of pointers after their claim, against a real broker."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.broker.publisher import Publisher
from taskflow.db.roles import DatabaseRole
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.jobs.attempts import Later
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.relay import Relay
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.settlement import Picked, Settlement
from taskflow_testing.clients import connected_broker, open_pool
from taskflow_testing.waiting import eventually

from .consuming import consuming

pytestmark = pytest.mark.broker

LANE = Lane("settled", Priority.MEDIUM)
DELAY_SECONDS = 1800
SOONER_SECONDS = 300
RUNG = topology.retry_exchange(DELAY_SECONDS)
"""Its exchange and its queue have one name. What is there stays there."""


class SlowPublisher(Publisher):
    """A broker that confirms nothing before it is allowed to; what it fails to take it says."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, timeout_seconds=5)
        self.confirms = asyncio.Event()
        self.refuses = False

    async def publish_many(
        self, pointers: Sequence[Pointer], delay_seconds: float = 0.0
    ) -> list[PublishFailed | None]:
        await self.confirms.wait()
        if self.refuses:
            return [PublishFailed("the queue is full") for _ in pointers]
        return await super().publish_many(pointers, delay_seconds)


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        async with broker.short_channel() as channel:
            await channel.queue_delete(topology.lane_queue(LANE))
            await topology.declare(channel)
            await topology.declare_lane(channel, LANE)
            for delay in (DELAY_SECONDS, SOONER_SECONDS):
                await (await channel.get_queue(topology.retry_exchange(delay))).purge()
        yield broker
        async with broker.short_channel() as channel:
            await channel.queue_delete(topology.lane_queue(LANE))
            for delay in (DELAY_SECONDS, SOONER_SECONDS):
                await (await channel.get_queue(topology.retry_exchange(delay))).purge()


@pytest.fixture
async def consumer(broker: Broker) -> AsyncIterator[LaneConsumer]:
    async with consuming(broker, LANE) as consumer:
        yield consumer


@pytest.fixture
def publisher(broker: Broker) -> SlowPublisher:
    return SlowPublisher(broker)


@pytest.fixture
async def settlement(publisher: SlowPublisher, clean_database: str) -> AsyncIterator[Settlement]:
    async with open_pool(clean_database, DatabaseRole.CONSUMER) as database:
        relay = Relay(publisher, database)
        relay.start()
        settlement = Settlement(publisher, relay)
        yield settlement
        publisher.confirms.set()
        await settlement.wait_sent()
        await relay.stop(5)


def heard(settlement: Settlement) -> asyncio.Event:
    """Is set when something can't be acknowledged."""
    event = asyncio.Event()
    settlement.notify_failed(event.set)
    return event


async def take(broker: Broker, consumer: LaneConsumer) -> tuple[list[Picked], list[Later]]:
    """Two pointers, of which the first came too early."""
    publisher = Publisher(broker, timeout_seconds=5)
    pointers = [Pointer(uuid7(), LANE, "echo", datetime.now(UTC)) for _ in range(2)]
    for pointer in pointers:
        await publisher.publish(pointer)
    await consumer.resume()

    async def all_came() -> bool:
        return len(consumer) == 2

    await eventually(all_came)
    picked = [(consumer, consumer.take(1)) for _ in pointers]
    return picked, [Later(pointers[0], DELAY_SECONDS)]


async def depth_reaches(broker: Broker, queue_name: str, count: int) -> None:
    async def is_reached() -> bool:
        async with broker.short_channel() as channel:
            queue = await channel.declare_queue(queue_name, passive=True)
            return queue.declaration_result.message_count == count

    await eventually(is_reached)


async def test_nothing_is_acknowledged_before_what_is_sent_on_is_confirmed(
    broker: Broker, consumer: LaneConsumer, settlement: Settlement
) -> None:
    (first, second), early = await take(broker, consumer)
    lost = heard(settlement)
    async with asyncio.timeout(5):
        await settlement.settle([first], early)
        await settlement.settle([second], [])

    await consumer.close()

    await depth_reaches(broker, topology.lane_queue(LANE), 2)
    assert not lost.is_set()


async def test_all_is_acknowledged_once_it_is(
    broker: Broker, consumer: LaneConsumer, publisher: SlowPublisher, settlement: Settlement
) -> None:
    (first, second), early = await take(broker, consumer)
    lost = heard(settlement)
    await settlement.settle([first], early)
    await settlement.settle([second], [])

    publisher.confirms.set()
    await asyncio.wait_for(settlement.finish(), 5)

    await consumer.close()
    await depth_reaches(broker, RUNG, 1)
    await depth_reaches(broker, topology.lane_queue(LANE), 0)
    assert not lost.is_set()


async def test_what_the_broker_does_not_take_is_left_to_the_relay(
    broker: Broker, consumer: LaneConsumer, publisher: SlowPublisher, settlement: Settlement
) -> None:
    (first, _), early = await take(broker, consumer)
    publisher.refuses = True
    publisher.confirms.set()
    await settlement.settle([first], early)
    await asyncio.wait_for(settlement.finish(), 5)

    await consumer.close()
    # The relay sends what is for a rung one by one.
    await depth_reaches(broker, RUNG, 1)
    await depth_reaches(broker, topology.lane_queue(LANE), 1)


async def test_each_goes_to_the_rung_of_its_own_delay(
    broker: Broker, consumer: LaneConsumer, publisher: SlowPublisher, settlement: Settlement
) -> None:
    (first, _), early = await take(broker, consumer)
    sooner = Pointer(uuid7(), LANE, "echo", datetime.now(UTC))
    publisher.confirms.set()
    await settlement.settle([first], [*early, Later(sooner, SOONER_SECONDS)])
    await asyncio.wait_for(settlement.finish(), 5)
    await depth_reaches(broker, RUNG, 1)
    await depth_reaches(broker, topology.retry_exchange(SOONER_SECONDS), 1)


async def test_what_was_cancelled_is_not_acknowledged(
    broker: Broker, consumer: LaneConsumer, settlement: Settlement
) -> None:
    """As by a library that gives a connection up."""
    (first, second), early = await take(broker, consumer)
    lost = heard(settlement)
    await settlement.settle([first], early)
    (task,) = settlement._under_way
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(lost.wait(), 5)
    await settlement.settle([second], [])
    await settlement.wait_sent()
    with pytest.raises(ServiceUnavailable, match="was cancelled"):
        settlement.check()
    await consumer.close()
    await depth_reaches(broker, topology.lane_queue(LANE), 2)


async def test_who_cannot_acknowledge_any_more_hears_of_it(
    broker: Broker, consumer: LaneConsumer, publisher: SlowPublisher, settlement: Settlement
) -> None:
    (first, second), early = await take(broker, consumer)
    lost = heard(settlement)
    await settlement.settle([first], early)
    await settlement.settle([second], [])
    await consumer.close()
    publisher.confirms.set()
    await asyncio.wait_for(lost.wait(), 5)
    with pytest.raises(BROKER_ERRORS):
        settlement.check()
    with pytest.raises(BROKER_ERRORS):
        await settlement.finish()
    settlement.forget()
    settlement.check()


async def test_what_is_forgotten_is_sent_on_and_not_acknowledged(
    broker: Broker, consumer: LaneConsumer, publisher: SlowPublisher, settlement: Settlement
) -> None:
    """Its channel is gone, and the tags of the next one mean other messages."""
    (first, _), early = await take(broker, consumer)
    lost = heard(settlement)
    await settlement.settle([first], early)
    settlement.forget()
    publisher.confirms.set()
    await settlement.wait_sent()
    await depth_reaches(broker, RUNG, 1)

    await consumer.close()
    await depth_reaches(broker, topology.lane_queue(LANE), 2)
    assert not lost.is_set()
