"""What becomes of pointers whose claim is committed: some are sent on, then all are acknowledged.

What is sent on has its confirm first: acknowledged before it, it could be lost. Nobody waits for
that but the acknowledgements that come after, for each settles all that came before it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from taskflow.broker.deliveries import Delivery
from taskflow.broker.outages import library_cancellations
from taskflow.broker.publisher import Publisher
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.attempts import Later
from taskflow.jobs.backoff import rung_for
from taskflow.jobs.lanes import Lane
from taskflow.relay import Dispatch, Relay
from taskflow_consumer.lane_consumer import LaneConsumer

log = structlog.get_logger(__name__)

Picked = tuple[LaneConsumer, list[Delivery]]
"""What was taken of a lane, at least one."""


class Settlement:
    """Settles pointers in the order in which they were taken."""

    def __init__(self, publisher: Publisher, relay: Relay) -> None:
        self._publisher = publisher
        self._relay = relay
        self._under_way: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._subscription = object()
        """Whose tags are acknowledged; another one's mean other messages, or none."""
        self._on_failed: Callable[[], None] = lambda: None

    def notify_failed(self, on_failed: Callable[[], None]) -> None:
        """Have `on_failed` called when what was given can't be acknowledged. One listens."""
        self._on_failed = on_failed

    async def settle(self, taken: Sequence[Picked], early: Sequence[Later]) -> None:
        """Send `early` on, then acknowledge `taken`; returns before that where it takes time.

        What fails then is told to who listens, and raised by `check`.

        Raises:
            Exception: one of `broker.outages.BROKER_ERRORS`, or `ServiceUnavailable`.
        """
        if not early and self._last is None:
            await _acknowledge(taken)
            return
        subscription, previous = self._subscription, self._last
        task = asyncio.create_task(
            self._settle(subscription, previous, taken, early), name="settlement"
        )
        self._last = task
        self._under_way.add(task)
        task.add_done_callback(partial(self._end, subscription))

    def check(self) -> None:
        """Raise what kept us from acknowledging, if anything did.

        Raises:
            Exception: one of `broker.outages.BROKER_ERRORS`, or `ServiceUnavailable`.
        """
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> None:
        """Return when all is acknowledged.

        Raises:
            Exception: one of `broker.outages.BROKER_ERRORS`, or `ServiceUnavailable`.
        """
        while self._last is not None:
            await asyncio.wait({self._last})
            self.check()

    def forget(self) -> None:
        """The lanes' channels are gone: their messages come again. What is sent on still is."""
        self._last = self._failure = None
        self._subscription = object()

    async def wait_sent(self) -> None:
        """Return when nothing is on its way any more."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _settle(
        self,
        subscription: object,
        previous: asyncio.Task[None] | None,
        taken: Sequence[Picked],
        early: Sequence[Later],
    ) -> None:
        with library_cancellations():
            await self._send_on(early)
            if previous is not None:
                await asyncio.wait({previous})
                previous.result()
            if subscription is self._subscription:
                await _acknowledge(taken)

    async def _send_on(self, early: Sequence[Later]) -> None:
        together: defaultdict[tuple[Lane, int], list[Later]] = defaultdict(list)
        for later in early:
            together[later.pointer.lane, rung_for(later.delay_seconds)].append(later)
        await asyncio.gather(*map(self._send_together, together.values()))

    async def _send_together(self, early: Sequence[Later]) -> None:
        """To the rung that is next for all of them."""
        errors = await self._publisher.publish_many(
            [later.pointer for later in early], early[0].delay_seconds
        )
        unsent = [later for later, error in zip(early, errors, strict=True) if error is not None]
        if unsent:
            self._relay.send(Dispatch(later.pointer, later.delay_seconds) for later in unsent)

    def _end(self, subscription: object, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        error: BaseException | None
        if task.cancelled():
            # What it was to send on is not confirmed.
            error = ServiceUnavailable("RabbitMQ", "what was to be sent on was cancelled")
        else:
            error = task.exception()
        if subscription is not self._subscription:
            if error is not None:
                log.warning("settlement_failed", error=str(error) or type(error).__name__)
            return
        if error is not None:
            # What comes after fails by it as well, and may say less.
            self._failure = self._failure or error
            self._on_failed()
        elif self._last is task:
            self._last = None


async def _acknowledge(taken: Sequence[Picked]) -> None:
    for consumer, deliveries in taken:
        await consumer.acknowledge_through(deliveries[-1])
