import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.message import decode
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.relay import Burial, Dispatch, Relay
from taskflow_testing.clients import connected_broker
from taskflow_testing.jobs import Connect, Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually, sessions_waiting

pytestmark = pytest.mark.broker

LANE = Lane("default", Priority.MEDIUM)
NOWHERE = "amqp://guest:guest@127.0.0.1:1/taskflow"


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        async with broker.short_channel() as channel:
            for queue in (topology.lane_queue(LANE), topology.DEAD_QUEUE, topology.UNROUTED_QUEUE):
                await channel.queue_delete(queue)
            await topology.declare(channel)
        yield broker


@pytest.fixture
def publisher(broker: Broker) -> Publisher:
    return Publisher(broker, timeout_seconds=5)


def pointer(lane: Lane = LANE) -> Pointer:
    return Pointer(uuid7(), lane, "echo", datetime.now(UTC))


async def arrival(
    broker: Broker, queue_name: str, timeout: float = 10
) -> aio_pika.abc.AbstractIncomingMessage:
    async with broker.short_channel() as channel:
        queue = await channel.get_queue(queue_name)

        async def take() -> aio_pika.abc.AbstractIncomingMessage | None:
            message = await queue.get(fail=False)
            if message is not None:
                await message.ack()
            return message

        return await eventually(take, timeout=timeout)


async def test_declaring_again_changes_nothing(broker: Broker) -> None:
    async with broker.short_channel() as channel:
        for _ in range(2):
            await topology.declare(channel)
            await topology.declare_lane(channel, LANE)


async def test_a_pointer_arrives_persistent_in_its_lane(
    broker: Broker, publisher: Publisher
) -> None:
    sent = pointer()
    await publisher.publish(sent)

    message = await arrival(broker, "jobs.default.medium")

    received = decode(message.body, message.headers)
    assert received.job_id == sent.job_id
    assert received.pointer_at is not None
    assert abs((received.pointer_at - sent.pointer_at).total_seconds()) < 0.001
    assert message.type == "echo"
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT


async def test_the_ladder_brings_a_pointer_to_its_lane_after_its_rung(
    broker: Broker, publisher: Publisher
) -> None:
    sent = pointer()
    begun = asyncio.get_running_loop().time()
    await publisher.publish_later(sent, 1.5)

    message = await arrival(broker, "jobs.default.medium")

    assert asyncio.get_running_loop().time() - begun >= 0.9
    assert decode(message.body, message.headers).job_id == sent.job_id


async def test_a_pointer_whose_lane_is_gone_is_kept_among_the_unrouted(
    broker: Broker, publisher: Publisher
) -> None:
    await publisher.publish(pointer())
    async with broker.short_channel() as channel:
        await channel.queue_delete("jobs.default.medium")
    lost = pointer()
    await publisher.publish(lost)

    message = await arrival(broker, topology.UNROUTED_QUEUE)

    assert message.routing_key == LANE.key
    assert decode(message.body, message.headers).job_id == lost.job_id
    publisher.forget_lanes()
    found = pointer()
    await publisher.publish(found)
    message = await arrival(broker, "jobs.default.medium")
    assert decode(message.body, message.headers).job_id == found.job_id


async def test_many_pointers_are_in_flight_at_once(broker: Broker, publisher: Publisher) -> None:
    sent = [pointer() for _ in range(500)]
    await asyncio.gather(*(publisher.publish(one) for one in sent))

    async def depth() -> bool:
        async with broker.short_channel() as channel:
            queue = await channel.declare_queue("jobs.default.medium", passive=True)
            return queue.declaration_result.message_count == len(sent)

    await eventually(depth)


async def test_a_window_of_messages_declares_their_new_lane_once(
    publisher: Publisher, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = []
    declare_lane = topology.declare_lane

    async def count(channel: aio_pika.abc.AbstractChannel, lane: Lane) -> None:
        declared.append(lane)
        await declare_lane(channel, lane)

    monkeypatch.setattr(topology, "declare_lane", count)
    await asyncio.gather(*(publisher.publish(pointer(lane)) for _ in range(50)))
    assert declared == [lane]


async def test_without_a_broker_publishing_fails_at_once() -> None:
    broker = Broker(NOWHERE, name="test")
    broker.start()
    publisher = Publisher(broker, timeout_seconds=5)
    with pytest.raises(PublishFailed, match="no connection"):
        await asyncio.wait_for(publisher.publish(pointer()), 1)
    with pytest.raises(ServiceUnavailable):
        await broker.channel()
    await broker.close()
    await broker.close()


async def test_closing_ends_a_connect_that_swallows_a_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    async def connect(_lost: asyncio.Event) -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    broker = Broker("amqp://127.0.0.1:1/x", name="test")
    monkeypatch.setattr(broker, "_connect", connect)
    broker.start()
    await begun.wait()
    await asyncio.wait_for(broker.close(), 5)


async def test_a_lost_connection_comes_back(amqp_url: str) -> None:
    async with TcpProxy(amqp_url) as proxy:
        broker = Broker(proxy.url, name="test")
        broker.start()
        await asyncio.wait_for(broker.wait_connected(), 20)
        publisher = Publisher(broker, timeout_seconds=5)
        await publisher.publish(pointer())
        channel = await broker.channel()

        proxy.cut()

        async def published_anew() -> bool:
            try:
                await publisher.publish(pointer())
            except PublishFailed:
                return False
            return channel.is_closed

        await eventually(published_anew)
        await broker.close()


async def test_a_loss_is_told_once_with_its_reason(amqp_url: str) -> None:
    async with TcpProxy(amqp_url) as proxy, connected_broker(proxy.url) as broker:
        with capture_logs() as logs:
            proxy.cut()

            async def is_back() -> bool:
                return [line["event"] for line in logs][-1:] == ["broker_connected"]

            await eventually(is_back)
        assert broker.connected
    (lost,) = [line for line in logs if line["event"] == "broker_connection_lost"]
    assert "Server connection" in lost["error"]
    assert lost["address"].endswith(urlsplit(amqp_url).path)


async def test_the_relay_publishes_what_it_is_given(
    broker: Broker, publisher: Publisher, database: Database
) -> None:
    relay = Relay(publisher, database)
    relay.start()
    straight, late, dead = pointer(), pointer(), pointer()
    relay.send([Dispatch(straight), Dispatch(late, 1.0), Burial(dead, "Boom")])
    await relay.wait_idle()

    first = await arrival(broker, "jobs.default.medium")
    second = await arrival(broker, "jobs.default.medium")
    buried = await arrival(broker, topology.DEAD_QUEUE)

    found = [decode(m.body, m.headers).job_id for m in (first, second, buried)]
    assert found == [straight.job_id, late.job_id, dead.job_id]
    assert buried.headers["reason"] == "Boom"
    await relay.stop(5)
    await relay.stop(5)


async def test_the_relay_writes_down_what_it_could_not_send(
    jobs: Jobs, connection: asyncpg.Connection, database: Database
) -> None:
    job_id, renewed = await jobs.submit(), await jobs.submit()
    stamps = [(await jobs.row(job))["pointer_at"] for job in (job_id, renewed)]
    await connection.execute(
        "UPDATE jobs SET pointer_at = now() + interval '1 s' WHERE id = $1", renewed
    )
    broker = Broker(NOWHERE, name="test")
    relay = Relay(Publisher(broker, timeout_seconds=1), database)
    relay.start()

    relay.send(
        Dispatch(Pointer(job, LANE, "echo", stamp))
        for job, stamp in zip((job_id, renewed), stamps, strict=True)
    )
    await asyncio.wait_for(relay.wait_idle(), 10)

    assert (await jobs.row(job_id))["pointer_at"] is None
    # Another pointer of this job is on its way by now: its stamp stays.
    assert (await jobs.row(renewed))["pointer_at"] is not None
    await relay.stop(1)


async def test_a_broker_closed_while_it_connects_leaves_no_connection_open(amqp_url: str) -> None:
    before = asyncio.all_tasks()
    for number in range(60):
        broker = Broker(amqp_url, name="test")
        broker.start()
        # From before the first byte to after the declarations: a millisecond more each time.
        await asyncio.sleep(number / 1000)
        await broker.close()

    async def nothing_runs() -> bool:
        return asyncio.all_tasks() <= before

    await eventually(nothing_runs, timeout=3)


async def test_a_relay_that_stops_leaves_nothing_unwritten(
    jobs: Jobs, publisher: Publisher, database: Database
) -> None:
    job_id = await jobs.submit()
    stamp = (await jobs.row(job_id))["pointer_at"]
    relay = Relay(publisher, database)
    relay.start()
    relay.send([Dispatch(Pointer(job_id, LANE, "echo", stamp))])
    await relay.stop(0)
    assert (await jobs.row(job_id))["pointer_at"] is None


async def test_a_relay_that_stops_while_it_writes_down_leaves_nothing_unwritten(
    jobs: Jobs, connect: Connect, database: Database
) -> None:
    job_id = await jobs.submit()
    stamp = (await jobs.row(job_id))["pointer_at"]
    relay = Relay(Publisher(Broker(NOWHERE, name="test"), timeout_seconds=1), database)
    relay.start()
    other = await connect()
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        relay.send([Dispatch(Pointer(job_id, LANE, "echo", stamp))])

        await eventually(lambda: sessions_waiting(jobs.connection))
        stopping = asyncio.create_task(relay.stop(0))
        await asyncio.wait({stopping}, timeout=0.1)
    await stopping
    assert (await jobs.row(job_id))["pointer_at"] is None


@pytest.mark.parametrize(
    ("change", "said"), [("password", "ACCESS_REFUSED"), ("vhost", "virtual host is missing")]
)
async def test_a_refusal_says_what_to_look_at(amqp_url: str, change: str, said: str) -> None:
    parts = urlsplit(amqp_url)
    netloc = f"{parts.username}:wrong@{parts.hostname}:{parts.port}"
    wrong = parts._replace(netloc=netloc) if change == "password" else parts._replace(path="/nope")
    broker = Broker(wrong.geturl(), name="test")
    with capture_logs() as logs:
        broker.start()

        async def refused() -> str | None:
            return broker.last_error

        assert said in await eventually(refused)
        await broker.close()
    (first, *_) = [line for line in logs if line["event"] == "broker_unreachable"]
    assert "TASKFLOW_AMQP_URL" in first["hint"]


async def refuse_to_declare(*_: object) -> None:
    raise AssertionError("a declaration waits for every node of a cluster")


async def test_where_nothing_is_missing_nothing_is_declared(
    amqp_url: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publisher.publish(pointer())
    monkeypatch.setattr(topology, "declare", refuse_to_declare)
    monkeypatch.setattr(topology, "declare_lane", refuse_to_declare)
    other = Broker(amqp_url, name="test")
    other.start()
    await asyncio.wait_for(other.wait_connected(), 20)
    await other.ensure_lane(LANE)
    await other.close()


async def test_a_lane_without_a_queue_is_declared(broker: Broker, publisher: Publisher) -> None:
    for _ in range(20):
        async with broker.short_channel() as channel:
            await channel.queue_delete("jobs.default.medium")
        await broker.ensure_lane(LANE)
    sent = pointer()
    await publisher.publish(sent)
    message = await arrival(broker, "jobs.default.medium")
    assert decode(message.body, message.headers).job_id == sent.job_id


@pytest.mark.parametrize("queue_name", topology.QUEUES)
async def test_who_connects_declares_what_is_missing(
    amqp_url: str, broker: Broker, queue_name: str
) -> None:
    async with broker.short_channel() as channel:
        await channel.queue_delete(queue_name)
    other = Broker(amqp_url, name="test")
    other.start()
    await asyncio.wait_for(other.wait_connected(), 20)
    async with other.short_channel() as channel:
        await topology.look(channel)
    await other.close()


async def test_a_binding_that_is_missing_alone_is_made_once_somebody_says_so(
    broker: Broker, publisher: Publisher
) -> None:
    await publisher.publish(pointer())
    await arrival(broker, "jobs.default.medium")
    async with broker.short_channel() as channel:
        queue = await channel.get_queue("jobs.default.medium")
        await queue.unbind(topology.JOBS_EXCHANGE, routing_key=LANE.key)
    await publisher.publish(pointer())
    await arrival(broker, topology.UNROUTED_QUEUE)

    publisher.forget_lanes()

    await publisher.publish(pointer())
    await arrival(broker, "jobs.default.medium")
