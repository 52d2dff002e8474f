"""One lane's channel: a small buffer of pointers, acknowledged many at once."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import aiormq
from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage

from taskflow.broker.deliveries import Delivery
from taskflow.broker.outages import end_of, said
from taskflow.broker.topology import lane_queue
from taskflow.jobs.lanes import Lane

ANSWER_SECONDS = 1.0
"""How long a lane is waited for: RabbitMQ says nothing for a minute where a queue has no leader."""


class LaneConsumer:
    """Consumes one lane on a channel of its own, as long as that channel lives.

    The calls are aiormq's: they acknowledge many messages with one frame. Deliveries come to
    `receive` (`Broker.listen`), past aiormq.
    """

    def __init__(
        self,
        lane: Lane,
        keeper: AbstractChannel,
        channel: aiormq.abc.AbstractChannel,
        *,
        prefetch: int,
        on_delivery: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._lane = lane
        self._keeper = keeper  # aio-pika holds channels weakly
        self._channel = channel
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._buffer: deque[Delivery] = deque()
        self._wanted = False
        self._consumes = False
        self._errand: asyncio.Task[None] | None = None
        self._returns: set[asyncio.Task[None]] = set()
        keeper.close_callbacks.add(self._lost)
        channel.on_consumer_cancel_callbacks.add(self._lost)

    @property
    def lane(self) -> Lane:
        """The lane that this one consumes."""
        return self._lane

    @property
    def consumes(self) -> bool:
        """Whether we asked for messages, and the broker has answered."""
        return self._wanted and self._consumes

    @property
    def is_unanswered(self) -> bool:
        """Whether we asked for messages, and the broker has not answered, or has refused."""
        return self._wanted and not self._consumes

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def buffered(self) -> Iterable[Delivery]:
        """The messages that have not been taken, the oldest first."""
        return self._buffer

    async def resume(self) -> None:
        """Begin to consume. A broker that doesn't answer soon is waited for on the side."""
        if not self._wanted:
            self._wanted = True
            await self._settle()

    async def hand_back(self) -> None:
        """Stop consuming and return what is buffered to the broker, for others to take.

        What has been taken stays with whoever took it.
        """
        if not self._wanted:
            return
        self._wanted = False
        await self._settle()
        buffered = [*self._buffer]
        self._buffer.clear()
        await self._nack(buffered)

    def receive(self, deliveries: list[Delivery]) -> None:
        """Take what has been delivered into the buffer."""
        if self._wanted:
            self._buffer.extend(deliveries)
            self._on_delivery()
        else:
            self._return(deliveries)

    def take(self, count: int) -> list[Delivery]:
        """The oldest `count` messages, no longer in the buffer, not yet acknowledged."""
        return [self._buffer.popleft() for _ in range(count)]

    async def acknowledge_through(self, delivery: Delivery) -> None:
        """Acknowledge `delivery` and all before it, which must have been taken or returned.

        It is on its way when this returns; what is lost on it comes again, and finds nothing to do.
        """
        await self._wait_returned()
        await self._channel.basic_ack(delivery.tag, multiple=True, wait=False)

    async def close(self) -> None:
        """Close the channel: what is not acknowledged goes back to the queue."""
        self._buffer.clear()
        errands = [*self._returns, *([self._errand] if self._errand else [])]
        for errand in errands:
            errand.cancel()
        await asyncio.gather(*errands, return_exceptions=True)
        await self._keeper.close()

    async def _settle(self) -> None:
        """Have the broker do what we want, and wait a moment for it."""
        if self._errand is None or self._errand.done():
            self._errand = asyncio.create_task(self._carry_out(), name=f"lane-{self._lane.key}")
            self._errand.add_done_callback(self._end_errand)
        errand = self._errand
        await asyncio.wait({errand}, timeout=ANSWER_SECONDS)
        if errand.done():
            errand.result()

    async def _carry_out(self) -> None:
        while self._wanted != self._consumes:
            if self._wanted:
                await self._channel.basic_qos(prefetch_count=self._prefetch)
                await self._channel.basic_consume(
                    lane_queue(self._lane), self._overlooked, consumer_tag=self._lane.key
                )
            else:
                await self._channel.basic_cancel(self._lane.key)
            self._consumes = not self._consumes

    def _end_errand(self, errand: asyncio.Task[None]) -> None:
        if errand.cancelled():
            self._lose("what it was asked for was cut off")
        elif (error := errand.exception()) is not None:
            self._lose(said(error))

    def _return(self, deliveries: Sequence[Delivery]) -> None:
        """What was on its way when we stopped consuming."""
        returning = asyncio.create_task(self._nack(deliveries), name=f"lane-{self._lane.key}-back")
        self._returns.add(returning)
        returning.add_done_callback(self._returns.discard)
        returning.add_done_callback(self._end_errand)

    async def _nack(self, deliveries: Sequence[Delivery]) -> None:
        # One by one: what came before them may be with a claim in flight.
        for delivery in deliveries:
            await self._channel.basic_nack(delivery.tag, requeue=True, wait=False)

    async def _wait_returned(self) -> None:
        """Before a tag settles all that came before it: what goes back must not be among them."""
        if self._returns:
            await asyncio.wait(self._returns)

    async def _overlooked(self, _: DeliveredMessage) -> None:
        """What comes this way has passed the listener by, and is to come again."""
        self._lose("a message has passed us by")

    def _lost(self, *_: object) -> None:
        closing = self._channel.closing
        cancelled = "the broker has cancelled its consumer"
        self._lose(said(end_of(closing)) if closing.done() else cancelled)

    def _lose(self, why: str) -> None:
        self._on_lost(f"{self._lane.key}: {why}")
