"""What came too early is sent on beside the next claim, and acknowledged after that."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from aiormq.exceptions import ChannelInvalidStateError
from structlog.testing import capture_logs

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.deliveries import Delivery
from taskflow.broker.publisher import Publisher
from taskflow.errors import PublishFailed
from taskflow.jobs.pointers import Pointer
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

from .house import House, Post, Start, depth, reach

pytestmark = pytest.mark.broker


@pytest.fixture
def confirms(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Nothing that goes to the ladder is published before it is set."""
    confirms, publish_many = asyncio.Event(), Publisher.publish_many

    async def publish_slowly(
        self: Publisher, pointers: Sequence[Pointer], delay_seconds: float = 0.0
    ) -> list[PublishFailed | None]:
        if delay_seconds:
            await asyncio.wait_for(confirms.wait(), 10)
        return await publish_many(self, pointers, delay_seconds)

    monkeypatch.setattr(Publisher, "publish_many", publish_slowly)
    return confirms


@pytest.fixture
async def sending(
    jobs: Jobs, post: Post, start: Start, amqp_url: str, confirms: asyncio.Event
) -> AsyncIterator[tuple[TcpProxy, House]]:
    """Who has something to send on that waits to be confirmed, and its way to its lanes."""
    assert not confirms.is_set()
    async with TcpProxy(amqp_url) as proxy:
        house = await start(url=proxy.url)
        await post("early", type="unknown")
        await reach(jobs, await post("before"), "completed")
        yield proxy, house
        await house.subscriber.stop()


async def test_the_next_claim_does_not_wait_for_what_is_sent_on(
    jobs: Jobs, post: Post, start: Start, broker: Broker, confirms: asyncio.Event
) -> None:
    house = await start(concurrency=1)
    await post("early", type="unknown")
    await reach(jobs, await post("after"), "completed")

    stopping = asyncio.create_task(house.subscriber.stop())
    await asyncio.sleep(0)
    assert await depth(broker, topology.retry_exchange(5)) == 0
    confirms.set()
    await stopping

    # Who stops has settled everything.
    assert await depth(broker, topology.retry_exchange(5)) == 1
    assert await depth(broker, "jobs.default.medium") == 0


async def test_who_has_lost_its_lanes_settles_what_comes_by_the_next(
    jobs: Jobs,
    post: Post,
    broker: Broker,
    sending: tuple[TcpProxy, House],
    confirms: asyncio.Event,
) -> None:
    proxy, house = sending
    proxy.cut()
    await reach(jobs, await post("after"), "completed")
    confirms.set()
    await reach(jobs, await post("last"), "completed")
    await house.subscriber.stop()

    assert await depth(broker, "jobs.default.medium") == 0
    assert await depth(broker, topology.retry_exchange(5)) >= 1


async def test_who_could_not_acknowledge_begins_anew(
    jobs: Jobs,
    post: Post,
    start: Start,
    broker: Broker,
    *,
    confirms: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acknowledge, failed = LaneConsumer.acknowledge_through, asyncio.Event()

    async def fail_once(self: LaneConsumer, delivery: Delivery) -> None:
        if not failed.is_set():
            failed.set()
            raise ChannelInvalidStateError("refused")
        await acknowledge(self, delivery)

    monkeypatch.setattr(LaneConsumer, "acknowledge_through", fail_once)
    with capture_logs() as logs:
        house = await start()
        await post("early", type="unknown")
        confirms.set()
        await asyncio.wait_for(failed.wait(), 10)
        await reach(jobs, await post("after"), "completed")
        await house.subscriber.stop()
    assert [line["error"] for line in logs if line["event"] == "subscription_lost"] == ["refused"]
    assert await depth(broker, "jobs.default.medium") == 0


async def test_who_stops_without_its_lanes_has_sent_on_what_it_was_to(
    broker: Broker, sending: tuple[TcpProxy, House], confirms: asyncio.Event
) -> None:
    proxy, house = sending
    proxy.freeze()
    proxy.cut()

    async def lanes_are_gone() -> bool:
        return not house.subscriber._consumers

    await eventually(lanes_are_gone)
    stopping = asyncio.create_task(house.subscriber.stop())
    # Less than it may take to end, and more than it would if it waited for nothing.
    await asyncio.wait({stopping}, timeout=0.5)
    confirms.set()
    await stopping
    proxy.thaw()

    assert await depth(broker, topology.retry_exchange(5)) == 1
