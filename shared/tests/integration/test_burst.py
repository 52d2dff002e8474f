"""Messages that go to the broker as one piece, each with a confirm of its own."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aiormq
import pytest
from aiormq.channel import Channel
from pamqp.common import FieldTable
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.burst import Burst
from taskflow.broker.connection import Broker
from taskflow.broker.message import decode, encode
from taskflow.broker.publisher import Publisher
from taskflow.errors import PublishFailed, PublishTimedOut
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow_testing.clients import connected_broker
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

UNANSWERED = PublishFailed("unanswered")


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        yield broker


@pytest.fixture
async def channel(broker: Broker) -> AsyncIterator[Channel]:
    keeper = await broker.channel(publisher_confirms=True)
    underlay = await keeper.get_underlay_channel()
    assert isinstance(underlay, Channel)
    yield underlay
    await keeper.close()


@contextlib.asynccontextmanager
async def small_queue(broker: Broker, room: int) -> AsyncIterator[str]:
    """A queue for so many messages, which refuses what comes after them."""
    name = f"small-{uuid4().hex[:12]}"
    arguments: FieldTable = {"x-max-length": room, "x-overflow": "reject-publish"}
    async with broker.short_channel() as declaring:
        await declaring.declare_queue(name, durable=True, arguments=arguments)
        yield name
        await declaring.queue_delete(name)


def pointers(lane: Lane, count: int) -> list[Pointer]:
    return [Pointer(uuid7(), lane, "echo", datetime.now(UTC)) for _ in range(count)]


async def bodies(broker: Broker, queue: str) -> list[bytes]:
    async with broker.short_channel() as channel:
        reading = await channel.get_queue(queue)
        found = []
        while (message := await reading.get(fail=False)) is not None:
            await message.ack()
            found.append(message.body)
        return found


async def test_bursts_and_single_messages_share_a_channel(broker: Broker, lane: Lane) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    first, single, second = pointers(lane, 100), pointers(lane, 20), pointers(lane, 100)

    found = await asyncio.gather(
        publisher.publish_many(first),
        *map(publisher.publish, single),
        publisher.publish_many(second),
    )

    assert [found[0], found[-1]] == [[None] * 100] * 2
    arrived = [decode(body, {}).job_id for body in await bodies(broker, topology.lane_queue(lane))]
    assert sorted(arrived) == sorted(each.job_id for each in first + single + second)
    of_first = {each.job_id for each in first}
    assert [each for each in arrived if each in of_first] == [each.job_id for each in first]


async def test_what_a_full_queue_refuses_is_told_of_each(broker: Broker, channel: Channel) -> None:
    given = pointers(Lane("any", Priority.MEDIUM), 5)
    async with small_queue(broker, room=3) as queue:
        burst = Burst(given)
        await burst.publish(channel, exchange="", routing_key=queue)
        errors = burst.errors(UNANSWERED)
        assert await bodies(broker, queue) == [encode(each).body for each in given[:3]]
    assert errors[:3] == [None] * 3
    assert [type(error) for error in errors[3:]] == [aiormq.exceptions.DeliveryError] * 2


async def test_what_finds_no_queue_comes_back_and_leaves_nothing_noted(channel: Channel) -> None:
    burst = Burst(pointers(Lane("any", Priority.MEDIUM), 4))
    await burst.publish(channel, exchange="", routing_key=f"none-{uuid4().hex}")
    assert {type(error) for error in burst.errors(UNANSWERED)} == {aiormq.exceptions.PublishError}

    async def is_forgotten() -> bool:
        return not (channel.confirmations or channel.message_id_delivery_tag)

    await eventually(is_forgotten)


async def test_a_burst_that_was_not_written_gives_its_tags_back(
    broker: Broker, channel: Channel, lane: Lane
) -> None:
    full: asyncio.Queue[object] = asyncio.Queue(maxsize=1)
    full.put_nowait(object())
    given = pointers(lane, 3)
    write_queue, channel.write_queue = channel.write_queue, full
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Burst(given).publish(channel, exchange="", routing_key="x"), 0.05)
    channel.write_queue = write_queue
    assert (channel.delivery_tag, len(channel.confirmations)) == (0, 0)

    async with small_queue(broker, room=3) as queue:
        burst = Burst(given)
        await asyncio.wait_for(burst.publish(channel, exchange="", routing_key=queue), 5)
        assert burst.errors(UNANSWERED) == [None] * 3


@pytest.fixture
async def said_by_the_loop() -> AsyncIterator[list[object]]:
    """What the event loop complains of."""
    loop = asyncio.get_running_loop()
    said: list[object] = []
    loop.set_exception_handler(lambda _, context: said.append(context))
    yield said
    loop.set_exception_handler(None)


async def test_what_is_never_answered_leaves_nothing_behind(
    channel: Channel, lane: Lane, said_by_the_loop: list[object]
) -> None:
    burst = Burst(pointers(lane, 3))
    write_queue, channel.write_queue = channel.write_queue, asyncio.Queue()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(burst.publish(channel, exchange="", routing_key="x"), 0.05)
    channel.write_queue = write_queue
    assert burst.errors(UNANSWERED) == [UNANSWERED] * 3
    del burst
    # The cancelled confirms are told to who waits for them in the loop's next turns.
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert said_by_the_loop == []


async def test_a_channel_that_ends_without_a_reason_is_an_outage_like_any_other(
    channel: Channel, lane: Lane
) -> None:
    burst = Burst(pointers(lane, 3))
    channel.write_queue = asyncio.Queue()
    publishing = asyncio.create_task(burst.publish(channel, exchange="", routing_key="x"))

    async def is_on_its_way() -> bool:
        return len(channel.confirmations) == 3

    await eventually(is_on_its_way)
    # So does a connection end whose last bytes come along with its end.
    await channel._cancel_tasks(None)
    with pytest.raises(aiormq.exceptions.ChannelInvalidStateError):
        await publishing


async def test_a_missing_exchange_is_declared_again_and_nothing_is_lost(
    broker: Broker, lane: Lane
) -> None:
    publisher = Publisher(broker, timeout_seconds=10)
    assert await publisher.publish_many(pointers(lane, 1)) == [None]
    async with broker.short_channel() as channel:
        await channel.exchange_delete(topology.JOBS_EXCHANGE)
    sent = pointers(lane, 20)
    assert await publisher.publish_many(sent) == [None] * 20
    arrived = {decode(body, {}).job_id for body in await bodies(broker, topology.lane_queue(lane))}
    assert arrived >= {each.job_id for each in sent}


@pytest.fixture
async def missing_rung(broker: Broker) -> AsyncIterator[str]:
    """The rung of half an hour with its queue empty and without its exchange."""
    rung = topology.retry_exchange(1800)
    async with broker.short_channel() as channel:
        await (await channel.get_queue(rung)).purge()
        await channel.exchange_delete(rung)
    yield rung
    await broker.declare_topology()


async def waiting_at(broker: Broker, queue: str) -> set[UUID]:
    return {decode(body, {}).job_id for body in await bodies(broker, queue)}


async def test_a_missing_rung_is_declared_again_and_what_is_for_it_goes_there(
    broker: Broker, lane: Lane, missing_rung: str
) -> None:
    publisher, sent = Publisher(broker, timeout_seconds=10), pointers(lane, 20)
    assert await publisher.publish_many(sent, 1800) == [None] * 20
    assert await waiting_at(broker, missing_rung) == {each.job_id for each in sent}
    assert not await bodies(broker, topology.lane_queue(lane))


async def test_a_rung_that_many_miss_at_once_costs_a_channel_and_not_the_connection(
    broker: Broker, lane: Lane, missing_rung: str
) -> None:
    publisher, sent = Publisher(broker, timeout_seconds=10), pointers(lane, 20)
    await asyncio.gather(*(publisher.publish_later(each, 1800) for each in sent))
    assert await waiting_at(broker, missing_rung) >= {each.job_id for each in sent}


async def test_a_broker_that_says_nothing_is_given_up_for_all(amqp_url: str, lane: Lane) -> None:
    async with TcpProxy(amqp_url) as proxy, connected_broker(proxy.url) as broker:
        publisher = Publisher(broker, timeout_seconds=1)
        assert await publisher.publish_many(pointers(lane, 1)) == [None]
        proxy.freeze()
        errors = await asyncio.wait_for(publisher.publish_many(pointers(lane, 10)), 5)
        proxy.thaw()
    assert [type(error) for error in errors] == [PublishTimedOut] * 10


async def test_a_connection_that_is_lost_fails_what_is_unanswered_at_once(
    amqp_url: str, lane: Lane
) -> None:
    async with TcpProxy(amqp_url) as proxy, connected_broker(proxy.url) as broker:
        publisher = Publisher(broker, timeout_seconds=30)
        assert await publisher.publish_many(pointers(lane, 1)) == [None]
        proxy.freeze()
        sending = asyncio.create_task(publisher.publish_many(pointers(lane, 10)))
        await asyncio.sleep(0)
        proxy.cut()
        errors = await asyncio.wait_for(sending, 10)
        proxy.thaw()
    assert all(isinstance(error, PublishFailed) for error in errors)
    assert not any(isinstance(error, PublishTimedOut) for error in errors)
