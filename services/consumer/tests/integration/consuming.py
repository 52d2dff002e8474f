"""A lane's consumer, for tests of what is done with its messages."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from taskflow.broker.connection import Broker
from taskflow.jobs.lanes import Lane
from taskflow_consumer.lane_consumer import LaneConsumer


@asynccontextmanager
async def consuming(
    broker: Broker, lane: Lane, *, on_lost: Callable[[str], None] = lambda _: None
) -> AsyncIterator[LaneConsumer]:
    """A consumer on a channel of its own, that nobody listens to."""
    keeper = await broker.channel()
    channel = await keeper.get_underlay_channel()
    consumer = LaneConsumer(
        lane, keeper, channel, prefetch=10, on_delivery=lambda: None, on_lost=on_lost
    )
    broker.listen(channel, consumer.receive)
    yield consumer
    await consumer.close()
