"""Consumes the lanes: pointers for slots that are free, the most urgent first.

With no slot free for a second, or with PostgreSQL away, the pointers that no claim has asked for go
back to the broker, where others can take them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import aiormq.exceptions
import structlog

from taskflow.broker.connection import Broker
from taskflow.broker.outages import BROKER_ERRORS, library_cancellations
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.patience import pause_seconds
from taskflow_consumer.executor import Executor
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.lanes_aside import LanesAside
from taskflow_consumer.picker import URGENCY, Picker
from taskflow_consumer.settlement import Picked, Settlement
from taskflow_consumer.taker import Taker
from taskflow_consumer.watchdog import Watchdog

MAX_PREFETCH = 200
HAND_BACK_AFTER_SECONDS = 1.0

_BROKER_AWAY: tuple[type[BaseException], ...] = (
    *BROKER_ERRORS,
    ServiceUnavailable,
    PublishFailed,
)
log = structlog.get_logger(__name__)


class Subscriber:
    """Takes pointers from the lanes as long as the process runs."""

    def __init__(
        self,
        *,
        broker: Broker,
        taker: Taker,
        settlement: Settlement,
        executor: Executor,
        lanes: Iterable[Lane],
    ) -> None:
        self._broker = broker
        self._taker = taker
        self._settlement = settlement
        self._executor = executor
        # The most urgent first, so that after a pause their pointers are the first to arrive.
        self._lanes = sorted(lanes, key=lambda lane: URGENCY[lane.priority], reverse=True)
        self._consumers: list[LaneConsumer] = []
        self._news = asyncio.Event()
        """Set by whatever `_consume` may wait for: an arrival, a free slot, a loss, the end."""
        self._aside = LanesAside(self._news.set)
        self._loss: str | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        executor.notify_freed(self._news.set)
        settlement.notify_failed(lambda: self._lose("what was taken can't be settled"))

    def start(self) -> None:
        """Begin to take pointers."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="subscriber")

    async def wait(self) -> None:
        """Return when it has stopped; raise what broke it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Take nothing more; a claim in flight is finished first. Again does nothing."""
        self._stopping.set()
        self._news.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
        await self._settlement.wait_sent()

    async def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._first_of(self._broker.wait_connected)
                if self._stopping.is_set():
                    return
                with library_cancellations():
                    await self._open()
                    failures = 0
                    log.info("subscribed", lanes=[lane.key for lane in self._lanes])
                    await self._consume()
            except _BROKER_AWAY as error:
                failures += 1
                log.warning("subscription_lost", error=str(error) or type(error).__name__)
                await self._first_of(partial(asyncio.sleep, pause_seconds(failures)))
            finally:
                await self._close()

    async def _open(self) -> None:
        self._loss = None
        # Twice the slots: with a lane's buffer emptied by one batch, a less urgent lane would be
        # served while the broker refills it.
        prefetch = min(2 * self._executor.concurrency, MAX_PREFETCH)
        for lane in self._lanes:
            await self._ensure(lane)
        for lane in self._lanes:
            keeper = await self._broker.channel()
            channel = await keeper.get_underlay_channel()
            consumer = LaneConsumer(
                lane,
                keeper,
                channel,
                prefetch=prefetch,
                on_delivery=self._news.set,
                on_lost=self._lose,
            )
            self._consumers.append(consumer)
            self._broker.listen(channel, consumer.receive)

    async def _ensure(self, lane: Lane) -> None:
        try:
            await self._broker.ensure_lane(lane)
        except aiormq.exceptions.ChannelClosed as error:
            # The refusal of one lane. A lost connection is another error.
            if lane not in self._aside:
                self._set_aside(lane, str(error))

    async def _close(self) -> None:
        self._settlement.forget()
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            self._judge(consumer)
            try:
                with library_cancellations():
                    await consumer.close()
            except _BROKER_AWAY as error:
                log.debug("lane_close_failed", lane=consumer.lane.key, error=str(error))

    def _judge(self, consumer: LaneConsumer) -> None:
        """Set a lane aside that did not let itself be consumed; then it has another chance."""
        if consumer.consumes:
            self._aside.note_answer(consumer.lane)
        elif consumer.is_unanswered and not self._stopping.is_set():
            self._set_aside(consumer.lane, "it could not be consumed")

    def _set_aside(self, lane: Lane, why: str) -> None:
        seconds = self._aside.note_refusal(lane)
        log.warning("lane_set_aside", lane=lane.key, seconds=round(seconds, 1), error=why)

    async def _consume(self) -> None:
        picker = Picker(self._consumers)
        watchdog = Watchdog(
            self._broker,
            self._consumers,
            on_forgotten=lambda: self._lose("the broker has forgotten our consumers"),
        )
        watching = asyncio.create_task(watchdog.watch(), name="watchdog")
        try:
            while True:
                await self._wait_for_slot()
                # Before all that is looked at, so that what comes meanwhile ends the wait below.
                self._news.clear()
                if not self._stopping.is_set():
                    await self._resume()
                if self._stopping.is_set():
                    await self._settlement.finish()
                    return
                batch = self._pick(picker)
                if self._loss is not None:
                    self._settlement.check()
                    raise ServiceUnavailable("RabbitMQ", self._loss)
                if batch:
                    await self._taker.take(batch, on_outage=self._hand_back_if_possible)
                else:
                    await self._news.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _lose(self, why: str) -> None:
        # What is lost after it is mostly lost with it, and may say less.
        self._loss = self._loss or why
        self._news.set()

    async def _resume(self) -> None:
        for consumer in self._consumers:
            if consumer.lane not in self._aside:
                await consumer.resume()

    async def _wait_for_slot(self) -> None:
        try:
            async with asyncio.timeout(HAND_BACK_AFTER_SECONDS):
                await self._slot_or_end()
        except TimeoutError:
            await self._hand_back()
            await self._slot_or_end()

    async def _hand_back(self) -> None:
        # All at once: a lane that doesn't answer takes a second, and is not to hold up the others.
        handed = await asyncio.gather(
            *(consumer.hand_back() for consumer in self._consumers), return_exceptions=True
        )
        for error in handed:
            if error is not None:
                raise error

    async def _slot_or_end(self) -> None:
        while not (self._executor.free or self._stopping.is_set()):
            self._news.clear()
            await self._news.wait()

    def _pick(self, picker: Picker[LaneConsumer]) -> list[Picked]:
        """What to claim next."""
        plan = picker.pick(self._taker.claim_size)
        return [(consumer, consumer.take(count)) for consumer, count in plan]

    async def _hand_back_if_possible(self) -> None:
        """As `_hand_back`; a broker that is away as well has everything again by itself."""
        try:
            with library_cancellations():
                await self._hand_back()
        except _BROKER_AWAY as error:
            log.debug("hand_back_failed", error=str(error) or type(error).__name__)

    async def _first_of(self, *waits: Callable[[], Awaitable[object]]) -> None:
        """Return when one of `waits` does, or when the process stops."""
        tasks = [asyncio.ensure_future(wait()) for wait in waits]
        tasks.append(asyncio.ensure_future(self._stopping.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
