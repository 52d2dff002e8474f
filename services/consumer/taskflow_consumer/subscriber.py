"""From the lanes to the executor: one claim in flight, and only for slots that are free.

A pointer is acknowledged when its claim is committed; from there the lease carries the job, so
a broker that blinks never runs a job twice. With no slot free for a second the pointers go back
to the broker, where others can take them.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import aiormq.exceptions
import structlog
from aio_pika import Message
from pamqp.common import FieldTable
from uuid_utils.compat import uuid7

from taskflow.broker.connection import Broker
from taskflow.broker.deliveries import Delivery
from taskflow.broker.message import ReceivedPointer, UndecodableMessage, decode
from taskflow.broker.outages import BROKER_ERRORS, library_cancellations
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.jobs.attempts import ClaimedJob, Later, Verdict
from taskflow.jobs.contenders import Claim
from taskflow.jobs.fair_claim import Claimed, claim_fairly
from taskflow.jobs.lanes import Lane
from taskflow.patience import pause_seconds
from taskflow.relay import Dispatch, Relay
from taskflow_consumer.executor import Executor
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.lanes_aside import LanesAside
from taskflow_consumer.picker import URGENCY, Picker
from taskflow_consumer.watchdog import Watchdog

MAX_BATCH = 100
MAX_PREFETCH = 200
HAND_BACK_AFTER_SECONDS = 1.0
STAMP_ROUNDING = timedelta(milliseconds=1)
"""A stamp travels in whole milliseconds."""


_DATABASE_AWAY: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
_BROKER_AWAY: tuple[type[BaseException], ...] = (
    *BROKER_ERRORS,
    ServiceUnavailable,
    PublishFailed,
)
log = structlog.get_logger(__name__)


Picked = tuple[LaneConsumer, list[Delivery]]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A pointer and where it came from."""

    source: LaneConsumer
    delivery: Delivery
    pointer: ReceivedPointer


@dataclass(frozen=True, slots=True)
class Claimer:
    """Who claims, and what it can run."""

    worker_id: UUID
    job_types: Sequence[str]
    lease_seconds: float
    key_ids: Sequence[str] = ()
    running_quota: int = 0
    """How many jobs of a tenant run at once, where its own quota doesn't say; 0: any number."""


class Subscriber:
    """Takes pointers from the lanes as long as the process runs."""

    def __init__(
        self,
        *,
        broker: Broker,
        publisher: Publisher,
        relay: Relay,
        database: Database,
        executor: Executor,
        claimer: Claimer,
        lanes: Iterable[Lane],
        on_watermark: Callable[[str, datetime], None],
    ) -> None:
        self._broker = broker
        self._publisher = publisher
        self._relay = relay
        self._database = database
        self._executor = executor
        self._claimer = claimer
        # The most urgent first, so that after a pause their pointers are the first to arrive.
        self._lanes = sorted(lanes, key=lambda lane: URGENCY[lane.priority], reverse=True)
        self._on_watermark = on_watermark
        self._consumers: list[LaneConsumer] = []
        self._news = asyncio.Event()
        """Set by whatever `_consume` may wait for: an arrival, a free slot, a loss, the end."""
        self._aside = LanesAside(self._news.set)
        self._lost = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        executor.notify_freed(self._news.set)

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
        self._lost = False
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
        watchdog = Watchdog(self._broker, self._consumers, self._lose)
        watching = asyncio.create_task(watchdog.watch(), name="watchdog")
        try:
            while True:
                await self._wait_for_slot()
                # Before all that is looked at, so that what comes meanwhile ends the wait below.
                self._news.clear()
                await self._resume()
                if self._stopping.is_set():
                    return
                batch = self._pick(picker)
                if self._lost:
                    raise ServiceUnavailable("RabbitMQ", "a lane's channel or consumer was lost")
                if batch:
                    await self._take(batch)
                else:
                    await self._news.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _lose(self) -> None:
        self._lost = True
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
        for consumer in self._consumers:
            await consumer.hand_back()

    async def _slot_or_end(self) -> None:
        while not (self._executor.free or self._stopping.is_set()):
            self._news.clear()
            await self._news.wait()

    def _pick(self, picker: Picker[LaneConsumer]) -> list[Picked]:
        """What to claim next."""
        plan = picker.pick(min(self._executor.free, MAX_BATCH))
        return [(consumer, consumer.take(count)) for consumer, count in plan]

    async def _take(self, batch: list[Picked]) -> None:
        """Claim, start, send on what came too early, acknowledge."""
        taken = [
            item
            for consumer, deliveries in batch
            for item in await self._read(consumer, deliveries)
        ]
        answer = await self._claim([item.pointer.job_id for item in taken])
        claimed = [verdict for verdict in answer.verdicts if isinstance(verdict, ClaimedJob)]
        # Before anything else: their leases run, whatever becomes of the broker.
        self._executor.start(*claimed, *answer.instead)
        self._note_watermarks(taken, claimed)
        _report_missing_keys(answer.verdicts)
        early = _early(taken, answer.verdicts)
        await asyncio.gather(*(self._send_on(later) for later in early))
        for consumer, deliveries in batch:
            await consumer.acknowledge_through(deliveries[-1])

    async def _read(self, consumer: LaneConsumer, deliveries: list[Delivery]) -> list[_Taken]:
        taken = []
        for delivery in deliveries:
            try:
                pointer = decode(delivery.body, delivery.headers)
            except UndecodableMessage as error:
                await self._bury(consumer.lane, delivery, str(error))
            else:
                taken.append(_Taken(consumer, delivery, pointer))
        return taken

    async def _bury(self, lane: Lane, delivery: Delivery, reason: str) -> None:
        log.error("message_undecodable", lane=lane.key, reason=reason, size=len(delivery.body))
        headers: FieldTable = {"original_headers": repr(delivery.headers)[:1000]}
        message = Message(delivery.body, headers=headers)
        await self._publisher.publish_dead(message, lane.key, reason)

    async def _claim(self, job_ids: list[UUID]) -> Claimed:
        """Claim until PostgreSQL answers: the token finds what a lost answer had taken.

        What else has been delivered is left to others meanwhile.
        """
        unique = list(dict.fromkeys(job_ids))
        by = Claim(
            self._claimer.worker_id,
            uuid7(),
            self._claimer.lease_seconds,
            self._claimer.job_types,
            self._claimer.key_ids,
            self._claimer.running_quota,
        )
        saturated = len(unique) >= min(self._executor.free, MAX_BATCH)
        failures = 0
        while True:
            try:
                async with self._database.connection() as connection:
                    claimed = await claim_fairly(
                        connection, unique, by, saturated=saturated, again=failures > 0
                    )
            except _DATABASE_AWAY as error:
                failures += 1
                log.warning("claim_waits", failures=failures, error=str(error))
                await self._hand_back_if_possible()
                await asyncio.sleep(pause_seconds(failures))
            else:
                log.debug("claimed", asked=len(unique), instead=len(claimed.instead))
                return claimed

    async def _hand_back_if_possible(self) -> None:
        """As `_hand_back`; a broker that is away as well has everything again by itself."""
        try:
            with library_cancellations():
                await self._hand_back()
        except _BROKER_AWAY as error:
            log.debug("hand_back_failed", error=str(error) or type(error).__name__)

    async def _send_on(self, later: Later) -> None:
        """To the next rung, and wait for the confirm: acknowledged before it, it could be lost."""
        try:
            await self._publisher.publish_later(later.pointer, later.delay_seconds)
        except PublishFailed:
            self._relay.send([Dispatch(later.pointer, later.delay_seconds)])

    def _note_watermarks(self, taken: list[_Taken], claimed: list[ClaimedJob]) -> None:
        """Tell how far lanes are taken, by what was claimed.

        A stamp ahead of its claim came down the ladder before its time, since its job was moved
        or has ended: it would make lost pointers of all that wait in the lane.
        """
        claimed_at = {job.attempt.job_id: job.started_at for job in claimed}
        for item in taken:
            stamp, at = item.pointer.pointer_at, claimed_at.get(item.pointer.job_id)
            if stamp is not None and at is not None and stamp - STAMP_ROUNDING <= at:
                self._on_watermark(item.source.lane.key, stamp)

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


def _report_missing_keys(verdicts: Iterable[Verdict]) -> None:
    missing = Counter(
        verdict.missing_key
        for verdict in verdicts
        if isinstance(verdict, Later) and verdict.missing_key is not None
    )
    for key_id, count in missing.items():
        # Others may have it, so the jobs wait for them.
        log.error("payload_key_missing", key=key_id, jobs=count, hint="see TASKFLOW_PAYLOAD_KEYS")


def _early(taken: Iterable[_Taken], verdicts: Iterable[Verdict]) -> list[Later]:
    """What to send on: the jobs that came too early by their newest pointer.

    An older one has been replaced, and would circle on the ladder beside the one that replaced it,
    unless the claim has just replaced it itself.
    """
    early = {later.pointer.job_id: later for later in verdicts if isinstance(later, Later)}
    current = set()
    for item in taken:
        later, stamp = early.get(item.pointer.job_id), item.pointer.pointer_at
        if later and (
            later.is_new or stamp is None or stamp >= later.pointer.pointer_at - STAMP_ROUNDING
        ):
            current.add(item.pointer.job_id)
    return [early[job_id] for job_id in current]
