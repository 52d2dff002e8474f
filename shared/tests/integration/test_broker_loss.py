"""A broker that loses what was declared in it, or takes no messages, while the connection lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime

import aiormq
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiormq import spec
from pamqp import frame
from pamqp.base import Frame
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.message import encode
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.errors import PublishFailed
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.relay import Dispatch, Relay
from taskflow_testing.clients import connected_broker
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

Send = Callable[[Publisher, Pointer], Awaitable[None]]


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        yield broker
        await broker.declare_topology()


def pointer(lane: Lane) -> Pointer:
    return Pointer(uuid7(), lane, "echo", datetime.now(UTC))


async def send_straight(publisher: Publisher, sent: Pointer) -> None:
    await publisher.publish(sent)


async def send_later(publisher: Publisher, sent: Pointer) -> None:
    await publisher.publish_later(sent, 1)


async def send_dead(publisher: Publisher, sent: Pointer) -> None:
    await publisher.publish_dead(encode(sent), sent.lane.key, "lost")


async def delete_jobs_exchange(channel: AbstractChannel, lane: Lane) -> None:
    await channel.exchange_delete(topology.JOBS_EXCHANGE)


async def delete_lane_and_unrouted_queue(channel: AbstractChannel, lane: Lane) -> None:
    await channel.queue_delete(topology.lane_queue(lane))
    await channel.queue_delete(topology.UNROUTED_QUEUE)


async def delete_lane_and_unrouted_exchange(channel: AbstractChannel, lane: Lane) -> None:
    await channel.queue_delete(topology.lane_queue(lane))
    await channel.exchange_delete(topology.UNROUTED_EXCHANGE)


async def delete_rung_exchange(channel: AbstractChannel, lane: Lane) -> None:
    await channel.exchange_delete(topology.retry_exchange(1))


async def delete_rung_queue(channel: AbstractChannel, lane: Lane) -> None:
    await channel.queue_delete(topology.retry_exchange(1))


async def delete_dead_exchange(channel: AbstractChannel, lane: Lane) -> None:
    await channel.exchange_delete(topology.DEAD_EXCHANGE)


async def delete_dead_queue(channel: AbstractChannel, lane: Lane) -> None:
    await channel.queue_delete(topology.DEAD_QUEUE)


async def until_arrived(
    broker: Broker, queue_names: Iterable[str], sent: Iterable[Pointer]
) -> None:
    missing = {str(each.job_id) for each in sent}
    async with broker.short_channel() as channel:
        queues = [await channel.get_queue(name) for name in queue_names]

        async def take() -> bool:
            for queue in queues:
                message: AbstractIncomingMessage | None = await queue.get(fail=False)
                if message is not None:
                    await message.ack()
                    missing.discard(message.message_id or "")
            return not missing

        await eventually(take)


@pytest.mark.parametrize(
    ("delete", "send", "arrives_in"),
    [
        (delete_jobs_exchange, send_straight, None),
        (delete_lane_and_unrouted_queue, send_straight, None),
        (delete_lane_and_unrouted_exchange, send_straight, None),
        (delete_rung_exchange, send_later, None),
        (delete_rung_queue, send_later, None),
        (delete_dead_exchange, send_dead, topology.DEAD_QUEUE),
        (delete_dead_queue, send_dead, topology.DEAD_QUEUE),
    ],
)
async def test_what_was_deleted_is_declared_again_and_nothing_sent_is_lost(
    broker: Broker,
    lane: Lane,
    delete: Callable[[AbstractChannel, Lane], Awaitable[None]],
    send: Send,
    arrives_in: str | None,
) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    await publisher.publish(pointer(lane))
    async with broker.short_channel() as channel:
        await (await channel.get_queue(topology.DEAD_QUEUE)).purge()
        await delete(channel, lane)
    sent = unsent = [pointer(lane) for _ in range(20)]

    async def all_are_sent() -> bool:
        """Those that were in flight when the broker closed the channel are unknown: once more."""
        nonlocal unsent
        sends = (send(publisher, each) for each in unsent)
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert all(isinstance(result, PublishFailed | None) for result in results)
        unsent = [each for each, result in zip(unsent, results, strict=True) if result is not None]
        return not unsent

    await eventually(all_are_sent)
    # Between the declarations of the exchanges and the lane's a message is unrouted, not lost.
    in_lane = [topology.lane_queue(lane), topology.UNROUTED_QUEUE]
    await until_arrived(broker, [arrives_in] if arrives_in else in_lane, sent)


async def test_a_window_that_fails_as_one_declares_once(broker: Broker, lane: Lane) -> None:
    publisher = Publisher(broker, timeout_seconds=5)
    await publisher.publish(pointer(lane))
    async with broker.short_channel() as channel:
        await channel.queue_delete(topology.retry_exchange(1))
    with capture_logs() as logs:
        await asyncio.gather(*(publisher.publish_later(pointer(lane), 1) for _ in range(50)))
    assert [line["event"] for line in logs].count("topology_missing") == 1


class AlarmProxy(TcpProxy):
    """Says what a broker in alarm says: one that others use too is not to be brought there."""

    def __init__(self, target_url: str) -> None:
        super().__init__(target_url)
        self._clients: list[asyncio.StreamWriter] = []

    def say(self, method: Frame) -> None:
        for client in self._clients:
            client.write(frame.marshal(method, 0))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        super()._accept(reader, writer)


async def test_a_broker_in_alarm_is_given_nothing_until_it_is_over(
    amqp_url: str, database: Database, jobs: Jobs, lane: Lane
) -> None:
    async with AlarmProxy(amqp_url) as proxy, connected_broker(proxy.url) as broker:
        publisher = Publisher(broker, timeout_seconds=5)
        relay = Relay(publisher, database)
        relay.start()
        await publisher.publish(pointer(lane))
        assert (publisher.ready, relay.ready) == (True, True)

        proxy.say(spec.Connection.Blocked("low on memory"))

        async def knows(in_alarm: bool) -> bool:
            return broker.in_alarm is in_alarm

        await eventually(lambda: knows(True))
        assert (publisher.ready, relay.ready) == (False, False)
        job_id = await jobs.submit(queue=lane.queue)
        stamp = (await jobs.row(job_id))["pointer_at"]
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        relay.send([Dispatch(Pointer(job_id, lane, "echo", stamp))])
        await relay.wait_idle()
        # Not after the time-out of a publish: a whole queue of them would take for ever.
        assert loop.time() - began_at < 4
        assert (await jobs.row(job_id))["pointer_at"] is None

        proxy.say(spec.Connection.Unblocked())
        await eventually(lambda: knows(False))
        await publisher.publish(pointer(lane))
        await relay.stop(5)


async def test_a_connection_that_is_given_up_cancels_nobody(amqp_url: str, lane: Lane) -> None:
    async with TcpProxy(amqp_url) as proxy, connected_broker(proxy.url) as broker:
        publisher = Publisher(broker, timeout_seconds=20)
        await publisher.publish(pointer(lane))
        proxy.freeze()
        sends = [asyncio.ensure_future(publisher.publish(pointer(lane))) for _ in range(20)]
        await asyncio.wait(sends, timeout=0.2)
        # What the client does itself when it has heard nothing for long; the messages are cancelled
        # by it, not their senders.
        assert broker._connection is not None
        assert broker._connection.transport is not None
        underlay = broker._connection.transport.connection
        assert isinstance(underlay, aiormq.Connection)
        underlay._reader_task.cancel()
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert {type(result) for result in results} == {PublishFailed}
        proxy.thaw()

        async def publishes_again() -> bool:
            with contextlib.suppress(PublishFailed):
                await publisher.publish(pointer(lane))
                return True
            return False

        await eventually(publishes_again)


async def test_what_exceeds_the_relays_memory_is_left_to_the_scheduler(
    database: Database, jobs: Jobs, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow.relay.MAX_WAITING", 20)
    monkeypatch.setattr("taskflow.relay.NOTE_SLICE", 30)
    away = Broker("amqp://guest:guest@127.0.0.1:1/none", name="test")
    relay = Relay(Publisher(away, timeout_seconds=5), database)
    for _ in range(100):
        await jobs.submit(queue=lane.queue)
    rows = await jobs.connection.fetch("SELECT id, pointer_at FROM jobs")
    relay.send(Dispatch(Pointer(row["id"], lane, "echo", row["pointer_at"])) for row in rows)
    assert len(relay._waiting) == 20
    assert not relay.ready
    relay.start()
    await relay.wait_idle()
    left = await jobs.connection.fetchval("SELECT count(*) FROM jobs WHERE pointer_at IS NULL")
    assert left == 100
    await relay.stop(5)
