"""Lanes and channels that are lost, refused or forgotten."""

import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import ChannelNotFoundEntity

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.watchdog import MISSES_ALLOWED, Watchdog
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

from .house import LANES, Post, Start, reach

pytestmark = pytest.mark.broker


async def test_a_lane_that_was_deleted_is_taken_up_again(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    house = await start()
    await reach(jobs, await post("before"), "completed")
    async with broker.short_channel() as channel:
        await channel.queue_delete("jobs.default.medium")

    async def lane_is_back() -> bool:
        async with broker.short_channel() as channel:
            queues = await channel.declare_queue("jobs.default.medium", passive=True)
            return bool(queues.declaration_result.consumer_count)

    async def lane_is_back_or_not_yet() -> bool:
        try:
            return await lane_is_back()
        except Exception:  # noqa: BLE001 - a passive look at a queue that isn't there yet
            return False

    await eventually(lane_is_back_or_not_yet)
    await reach(jobs, await post("after"), "completed")
    assert house.seen == [("before", 1), ("after", 1)]


async def test_jobs_are_run_once_under_a_broken_network(
    jobs: Jobs, post: Post, start: Start, amqp_url: str
) -> None:
    async with TcpProxy(amqp_url) as proxy:
        house = await start(url=proxy.url, concurrency=8)
        posted = []
        for n in range(60):
            posted.append(await post(f"job{n}"))
            if n % 12 == 5:
                proxy.cut()
        for job_id in posted:
            await reach(jobs, job_id, "completed")
    assert sorted(house.seen) == sorted((f"job{n}", 1) for n in range(60))


async def test_a_consumer_that_was_forgotten_subscribes_anew_when_it_misses_something(
    jobs: Jobs, post: Post, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_consumer.watchdog.LOOK_SECONDS", 0.3)
    resume, look = LaneConsumer.resume, Watchdog.look
    deaf: set[LaneConsumer] = set()
    looks: list[list[str]] = []

    async def resume_in_vain(consumer: LaneConsumer) -> None:
        """The first of each lane believes that it consumes, and the broker knows nothing of it."""
        if len(deaf) < len(LANES):
            deaf.add(consumer)
        if consumer in deaf:
            consumer._wanted = consumer._consumes = True
        else:
            await resume(consumer)

    async def note(watchdog: Watchdog) -> list[str]:
        looks.append(await look(watchdog))
        return looks[-1]

    monkeypatch.setattr(LaneConsumer, "resume", resume_in_vain)
    monkeypatch.setattr(Watchdog, "look", note)
    house = await start()

    async def looked_often() -> bool:
        return len(looks) >= 2 * MISSES_ALLOWED

    await eventually(looked_often)
    # Without a message it may be a queue whose leader doesn't answer.
    assert not any(looks)

    await reach(jobs, await post("missed"), "completed")

    assert ["default.medium"] in looks
    assert house.seen == [("missed", 1)]


async def test_a_lane_that_was_deleted_without_a_word_is_missed(
    start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_consumer.watchdog.LOOK_SECONDS", 0.2)
    monkeypatch.setattr(LaneConsumer, "_lost", lambda *_: None)
    await start()
    await is_consumed_in_the_end(broker, "jobs.default.medium")
    async with broker.short_channel() as channel:
        await channel.queue_delete("jobs.default.medium")

    # Nobody publishes anything that would bring it back.
    await is_consumed_in_the_end(broker, "jobs.default.medium")


async def is_consumed_in_the_end(broker: Broker, queue_name: str, consumed: bool = True) -> None:
    async def is_so() -> bool:
        try:
            async with broker.short_channel() as channel:
                queue = await channel.declare_queue(queue_name, passive=True)
        except ChannelNotFoundEntity:
            return not consumed
        return bool(queue.declaration_result.consumer_count) is consumed

    await eventually(is_so)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_consumer.lane_consumer.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("taskflow_consumer.lanes_aside.FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("taskflow_consumer.subscriber.HAND_BACK_AFTER_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_a_lane_that_refuses_keeps_no_other_lane_from_its_worker(
    jobs: Jobs, post: Post, start: Start, broker: Broker
) -> None:
    async def ignore(_: AbstractIncomingMessage) -> None: ...

    async with broker.short_channel() as holder:
        # A queue of somebody's own, of which nobody else may consume.
        await holder.queue_delete("jobs.default.urgent")
        refusing = await holder.declare_queue("jobs.default.urgent", durable=True)
        await refusing.bind(topology.JOBS_EXCHANGE, routing_key="default.urgent")
        tag = await refusing.consume(ignore, exclusive=True)
        await start()

        for n in range(3):
            await reach(jobs, await post(f"other{n}"), "completed")

        await refusing.cancel(tag)
        await is_consumed_in_the_end(broker, "jobs.default.urgent")


class DeafProxy(TcpProxy):
    """Keeps from the broker that one queue is to be consumed, as if it had lost its leader."""

    deaf_for = b"jobs.default.urgent"

    async def _hold_request(self, piece: bytes) -> bytes:
        passed, rest = b"", await super()._hold_request(piece)
        while len(rest) >= 8 and not rest.startswith(b"AMQP"):
            size = int.from_bytes(rest[3:7], "big") + 8
            frame, rest = rest[:size], rest[size:]
            is_consume = frame[7:11] == bytes([0, 60, 0, 20])
            passed += b"" if is_consume and self.deaf_for in frame else frame
        return passed + rest


@pytest.mark.usefixtures("impatient")
async def test_a_lane_that_does_not_answer_keeps_no_other_lane_from_its_worker(
    jobs: Jobs, post: Post, start: Start, broker: Broker, amqp_url: str
) -> None:
    async with DeafProxy(amqp_url) as proxy:
        house = await start(url=proxy.url, concurrency=1)
        await reach(jobs, await post("other"), "completed")
        await reach(jobs, await post("busy", type="held"), "running")
        # Without a slot all lanes are given up, and with one they are asked for again.
        await is_consumed_in_the_end(broker, "jobs.default.medium", False)
        house.gate.set()
        await reach(jobs, await post("after"), "completed")

        proxy.deaf_for = b"nothing"
        proxy.cut()
        await is_consumed_in_the_end(broker, "jobs.default.urgent")
