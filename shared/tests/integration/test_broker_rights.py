"""Each service's user in the broker: enough for all that the service does, and no more."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import httpx
import pytest
from aio_pika import ExchangeType, Message
from aio_pika.abc import AbstractChannel
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.message import encode
from taskflow.broker.publisher import Publisher
from taskflow.broker.rights import BROKER_RIGHTS
from taskflow.doctor.broker import examine_broker, open_broker
from taskflow.doctor.diagnosis import Level
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.backoff import LADDER_SECONDS
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow_testing.broker import create_virtual_host, delete_virtual_host, user_with
from taskflow_testing.clients import connected_broker
from taskflow_testing.servers import TestServers
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

LANE = Lane("some_queue-1", Priority.MEDIUM)
LANE_QUEUE = topology.lane_queue(LANE)

Users = dict[str, str]
"""The AMQP URL of each service's user, and of who administers (`owner`)."""
Act = Callable[[AbstractChannel], Awaitable[object]]


@pytest.fixture
def users(servers: TestServers) -> Iterator[Users]:
    """Of an empty virtual host."""
    management = servers.rabbitmq_management_url
    owner = create_virtual_host(management, servers.amqp_url)
    with contextlib.ExitStack() as stack:
        stack.callback(delete_virtual_host, management, owner)
        yield {"owner": owner} | {
            service: stack.enter_context(user_with(management, owner, rights))
            for service, rights in BROKER_RIGHTS.items()
        }


def pointer(lane: Lane = LANE) -> Pointer:
    return Pointer(uuid7(), lane, "echo", datetime.now(UTC))


async def declare_lane(broker: Broker) -> None:
    async with broker.short_channel() as channel:
        await topology.declare_lane(channel, LANE)


async def depth(users: Users, queue_name: str) -> int:
    async with await aio_pika.connect(users["owner"]) as connection:
        queue = await (await connection.channel()).get_queue(queue_name)
        return queue.declaration_result.message_count or 0


async def has(users: Users, queue_name: str, count: int) -> None:
    async def look() -> bool:
        return await depth(users, queue_name) == count

    await eventually(look)


async def test_a_scheduler_declares_everything_and_may_do_it_again(users: Users) -> None:
    async with connected_broker(users["scheduler"]) as broker:
        assert broker.may_declare
        await broker.declare_topology()
        for _ in range(2):
            await declare_lane(broker)
        await broker.ensure_lane(Lane("other", Priority.LOW))
    async with connected_broker(users["scheduler"]) as again:
        assert again.may_declare


@pytest.mark.parametrize("service", ["api", "consumer"])
async def test_the_others_wait_for_what_a_scheduler_declares(users: Users, service: str) -> None:
    waiting = Broker(users[service], name="taskflow-test")
    waiting.start()
    try:

        async def was_refused() -> bool:
            return waiting.last_error is not None

        await eventually(was_refused)
        assert "which a scheduler" in (waiting.last_error or "")
        assert not waiting.connected
        async with connected_broker(users["scheduler"]):
            await asyncio.wait_for(waiting.wait_connected(), 20)
        assert not waiting.may_declare
        with pytest.raises(ServiceUnavailable, match="scheduler"):
            await waiting.declare_topology()
        if service == "consumer":
            with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
                await waiting.ensure_lane(LANE)
        # None of this has cost the connection.
        await asyncio.gather(*(look(waiting) for _ in range(10)))
        assert waiting.connected
    finally:
        await waiting.close()


async def look(broker: Broker) -> None:
    async with broker.short_channel() as channel:
        await channel.get_exchange(topology.JOBS_EXCHANGE)


async def test_the_api_publishes_into_lanes(users: Users) -> None:
    async with connected_broker(users["scheduler"]) as scheduler:
        await declare_lane(scheduler)
        async with connected_broker(users["api"]) as broker:
            publisher = Publisher(broker, timeout_seconds=5)
            await asyncio.gather(*(publisher.publish(pointer()) for _ in range(5)))
            await has(users, LANE_QUEUE, 5)
            # Into one that nobody has declared yet: the scheduler finds it, and sends it anew.
            await publisher.publish(pointer(Lane("new", Priority.LOW)))
            await has(users, topology.UNROUTED_QUEUE, 1)
            assert broker.connected
        async with scheduler.short_channel() as channel:
            message = await (await channel.get_queue(topology.UNROUTED_QUEUE)).get()
            assert message.routing_key == "new.low"
            await message.ack()


async def test_a_consumer_takes_from_lanes_and_sends_on(users: Users) -> None:
    async with connected_broker(users["scheduler"]) as scheduler:
        await declare_lane(scheduler)
        async with connected_broker(users["consumer"]) as broker:
            await broker.ensure_lane(LANE)
            publisher = Publisher(broker, timeout_seconds=5)
            await publisher.publish(pointer())
            await publisher.publish_later(pointer(), 1)
            for rung in LADDER_SECONDS:
                await publisher.publish_later(pointer(), rung)
            await publisher.publish_dead(encode(pointer()), LANE.key, "failed")
            await has(users, topology.DEAD_QUEUE, 1)
            async with broker.short_channel() as channel:
                queue = await channel.get_queue(LANE_QUEUE)
                taken: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
                tag = await queue.consume(taken.put)
                # One went straight, two by way of the rung of a second.
                for _ in range(3):
                    await (await asyncio.wait_for(taken.get(), 10)).ack()
                await queue.cancel(tag)


async def test_a_scheduler_publishes_and_asks_queues(users: Users) -> None:
    async with connected_broker(users["scheduler"]) as broker:
        publisher = Publisher(broker, timeout_seconds=5)
        await publisher.publish(pointer())
        await publisher.publish_later(pointer(), 1800)
        await publisher.publish_dead(Message(b"no pointer"), "what.ever", "undecodable")
        await has(users, LANE_QUEUE, 1)
        async with broker.short_channel() as channel:
            message = await (await channel.get_queue(LANE_QUEUE)).get()
            await message.nack(requeue=True)


def _get(queue_name: str) -> Act:
    async def act(channel: AbstractChannel) -> object:
        underlay = await channel.get_underlay_channel()
        return await underlay.basic_get(queue_name)

    return act


def _consume(queue_name: str) -> Act:
    async def act(channel: AbstractChannel) -> object:
        async def take(_: object) -> None:
            """Takes nothing."""

        underlay = await channel.get_underlay_channel()
        return await underlay.basic_consume(queue_name, take)

    return act


def _publish(exchange: str, routing_key: str = LANE.key) -> Act:
    async def act(channel: AbstractChannel) -> object:
        underlay = await channel.get_underlay_channel()
        return await underlay.basic_publish(b"{}", exchange=exchange, routing_key=routing_key)

    return act


def _delete(queue_name: str) -> Act:
    return lambda channel: channel.queue_delete(queue_name)


def _declare(queue_name: str) -> Act:
    return lambda channel: channel.declare_queue(queue_name, durable=True)


def _delete_exchange(name: str) -> Act:
    return lambda channel: channel.exchange_delete(name)


def _declare_exchange(name: str) -> Act:
    return lambda channel: channel.declare_exchange(name, ExchangeType.TOPIC)


async def _bind(channel: AbstractChannel) -> object:
    queue = await channel.get_queue(LANE_QUEUE)
    return await queue.bind(topology.JOBS_EXCHANGE, routing_key="#")


async def _purge(channel: AbstractChannel) -> object:
    return await (await channel.get_queue(topology.DEAD_QUEUE)).purge()


FORBIDDEN: dict[str, dict[str, Act]] = {
    "api": {
        "read a lane": _get(LANE_QUEUE),
        "consume a lane": _consume(LANE_QUEUE),
        "read the dead": _get(topology.DEAD_QUEUE),
        "purge the dead": _purge,
        "delete a lane": _delete(LANE_QUEUE),
        "declare a lane": _declare("jobs.mine.low"),
        "declare a queue": _declare("mine"),
        "have a queue of its own": _declare(""),
        "delete an exchange": _delete_exchange(topology.JOBS_EXCHANGE),
        "bind": _bind,
        "publish to the dead": _publish(topology.DEAD_EXCHANGE),
        "publish to a rung": _publish(topology.retry_exchange(1)),
        "publish to the unrouted": _publish(topology.UNROUTED_EXCHANGE),
        "publish to a queue": _publish("", topology.DEAD_QUEUE),
        "publish events": _publish(topology.EVENTS_EXCHANGE),
    },
    "consumer": {
        "delete a lane": _delete(LANE_QUEUE),
        "delete the dead": _delete(topology.DEAD_QUEUE),
        "declare a queue": _declare("mine"),
        "declare a lane": _declare("jobs.mine.low"),
        "delete an exchange": _delete_exchange(topology.JOBS_EXCHANGE),
        "bind": _bind,
        "read the dead": _get(topology.DEAD_QUEUE),
        "purge the dead": _purge,
        "read the unrouted": _get(topology.UNROUTED_QUEUE),
        "read a rung": _get(topology.retry_exchange(1)),
        "publish to the unrouted": _publish(topology.UNROUTED_EXCHANGE),
        "publish to a queue": _publish("", LANE_QUEUE),
        "publish orders": _publish(topology.CONTROL_EXCHANGE),
    },
    "scheduler": {
        "declare a queue": _declare("mine"),
        "have a queue of its own": _declare(""),
        "declare an exchange": _declare_exchange("mine"),
        "publish to a queue": _publish("", LANE_QUEUE),
        "publish elsewhere": _publish("amq.topic"),
        "read another's queue": _get("others"),
        "delete another's queue": _delete("others"),
    },
}


@pytest.mark.parametrize("service", FORBIDDEN)
async def test_a_service_may_do_nothing_else(users: Users, service: str) -> None:
    async with (
        connected_broker(users["scheduler"]) as scheduler,
        connected_broker(users["owner"]) as owner,
        connected_broker(users[service]) as broker,
    ):
        await declare_lane(scheduler)
        async with owner.short_channel() as channel:
            await channel.declare_queue("others", durable=True)
        for what, act in FORBIDDEN[service].items():
            async with broker.short_channel() as channel:
                refused = False
                try:
                    async with asyncio.timeout(5):
                        await act(channel)
                        # A message has no answer of its own: its refusal comes meanwhile.
                        await channel.set_qos(1)
                except aiormq.exceptions.ChannelAccessRefused:
                    refused = True
                assert refused, f"{service} may {what}"
    assert await depth(users, LANE_QUEUE) == 0
    assert await depth(users, topology.DEAD_QUEUE) == 0


async def test_the_doctor_says_of_a_services_user_that_it_sees_too_little(users: Users) -> None:
    async with connected_broker(users["scheduler"]), open_broker(users["api"]) as connection:
        report = await examine_broker(connection)
    levels = {diagnosis.subject: diagnosis.level for diagnosis in report.diagnoses}
    assert levels in (
        {
            "RabbitMQ": Level.UNSEEN,
            "topology": Level.OK,
            "unrouted": Level.OK,
            "dead": Level.UNSEEN,
        },
        # 4.3 doesn't show what one has no right to.
        {"RabbitMQ": Level.UNSEEN, "topology": Level.UNSEEN},
    )
    assert report.dead_messages is None


@pytest.mark.parametrize("service", BROKER_RIGHTS)
def test_a_service_has_no_way_into_the_management(
    users: Users, servers: TestServers, service: str
) -> None:
    login = urlsplit(users[service])
    address = servers.rabbitmq_management_url.rpartition("@")[2]
    answer = httpx.get(
        f"http://{address}/api/overview",
        auth=(login.username or "", login.password or ""),
        trust_env=False,
    )
    assert answer.status_code == 401
