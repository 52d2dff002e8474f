"""One lane's channel: a small buffer of pointers, acknowledged many at once."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiormq
from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage

from taskflow.broker.topology import lane_queue
from taskflow.jobs.lanes import Lane


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came, and the tag that settles it."""

    tag: int
    body: bytes
    headers: Mapping[str, object]


class LaneConsumer:
    """Consumes one lane on a channel of its own, as long as that channel lives.

    The calls are aiormq's: they settle many messages with one frame.
    """

    def __init__(
        self,
        lane: Lane,
        keeper: AbstractChannel,
        channel: aiormq.abc.AbstractChannel,
        *,
        prefetch: int,
        on_delivery: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._keeper = keeper  # aio-pika holds channels weakly
        self._channel = channel
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._buffer: deque[Delivery] = deque()
        self._consumes = False
        keeper.close_callbacks.add(self._lost)
        channel.on_consumer_cancel_callbacks.add(self._lost)

    @property
    def lane(self) -> Lane:
        """The lane that this one consumes."""
        return self._lane

    @property
    def consumes(self) -> bool:
        """Whether it asks for messages now."""
        return self._consumes

    def __len__(self) -> int:
        return len(self._buffer)

    async def resume(self) -> None:
        """Begin to consume."""
        if self._consumes:
            return
        self._consumes = True
        await self._channel.basic_qos(prefetch_count=self._prefetch)
        await self._channel.basic_consume(
            lane_queue(self._lane), self._receive, consumer_tag=self._lane.key
        )

    async def hand_back(self) -> None:
        """Stop consuming and return what is buffered to the broker, for others to take."""
        if not self._consumes:
            return
        self._consumes = False
        await self._channel.basic_cancel(self._lane.key)
        if self._buffer:
            last = self._buffer[-1].tag
            self._buffer.clear()
            await self._channel.basic_nack(last, multiple=True, requeue=True)

    def take(self, count: int) -> list[Delivery]:
        """The oldest `count` messages, no longer in the buffer, not yet acknowledged."""
        return [self._buffer.popleft() for _ in range(count)]

    async def acknowledge_through(self, delivery: Delivery) -> None:
        """Acknowledge `delivery` and all before it, which must have been taken."""
        await self._channel.basic_ack(delivery.tag, multiple=True)

    async def close(self) -> None:
        """Close the channel: what is not acknowledged goes back to the queue."""
        self._buffer.clear()
        await self._keeper.close()

    async def _receive(self, message: DeliveredMessage) -> None:
        tag = message.delivery_tag
        if tag is None:
            return
        if not self._consumes:
            # It was on its way when we stopped consuming.
            await self._channel.basic_nack(tag, requeue=True)
            return
        headers = message.header.properties.headers or {}
        self._buffer.append(Delivery(tag, bytes(message.body), headers))
        self._on_delivery()

    def _lost(self, *_: object) -> None:
        self._on_lost()
