"""From pointers to running jobs: one claim for many, then the acknowledgement.

A pointer is acknowledged when its claim is committed; from there the lease carries the job, so
a broker that blinks never runs a job twice.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import structlog
from aio_pika import Message
from pamqp.common import FieldTable
from uuid_utils.compat import uuid7

from taskflow.broker.deliveries import Delivery
from taskflow.broker.message import ReceivedPointer, UndecodableMessage, decode
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.attempts import ClaimedJob, Later, Verdict
from taskflow.jobs.contenders import Claim
from taskflow.jobs.fair_claim import MAX_CLAIM, Claimed, claim_fairly
from taskflow.jobs.lanes import Lane
from taskflow.patience import pause_seconds
from taskflow.values import value_type
from taskflow_consumer.executor import Executor
from taskflow_consumer.lane_consumer import LaneConsumer
from taskflow_consumer.settlement import Picked, Settlement
from taskflow_consumer.spent_pointers import SpentPointers

STAMP_ROUNDING = timedelta(milliseconds=1)
"""A stamp travels in whole milliseconds."""

_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""PostgreSQL is there, and would have the claim once more."""
_DATABASE_AWAY: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
log = structlog.get_logger(__name__)


@value_type
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


class Taker:
    """Takes the jobs that pointers name, and knows what is to become of the pointers."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        settlement: Settlement,
        database: Database,
        executor: Executor,
        claimer: Claimer,
        on_watermark: Callable[[str, datetime], None],
    ) -> None:
        self._publisher = publisher
        self._database = database
        self._executor = executor
        self._claimer = claimer
        self._on_watermark = on_watermark
        self._spent = SpentPointers()
        self._settlement = settlement

    @property
    def claim_size(self) -> int:
        """How many jobs the next claim may take.

        At most half of the slots', rounded up: one half is claimed while the other one runs.
        """
        half = (self._executor.concurrency + 1) // 2
        return min(self._executor.free, half, MAX_CLAIM)

    async def take(
        self, batch: Sequence[Picked], *, on_outage: Callable[[], Awaitable[None]]
    ) -> None:
        """Claim, start, acknowledge; what came too early is sent on first, beside the next claim.

        `on_outage` is awaited, and may raise nothing, each time that PostgreSQL was not there for
        the claim; it must be quick, for a claim whose answer was lost has leases that run.

        Raises:
            Exception: one of `broker.outages.BROKER_ERRORS`; what was claimed runs all the same.
        """
        taken = [
            item
            for consumer, deliveries in batch
            for item in await self._read(consumer, deliveries)
        ]
        answer = await self._claim(taken, on_outage)
        claimed = [verdict for verdict in answer.verdicts if isinstance(verdict, ClaimedJob)]
        # Before anything else: their leases run, whatever becomes of the broker.
        self._executor.start(*claimed, *answer.instead)
        self._spent.forget(item.delivery for item in taken)
        self._spent.add(job.attempt.job_id for job in answer.instead)
        self._note_watermarks(taken, claimed)
        _report_missing_keys(answer.verdicts)
        early = _early(taken, answer.verdicts)
        await self._settlement.settle(batch, early)

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

    async def _claim(
        self, taken: Sequence[_Taken], on_outage: Callable[[], Awaitable[None]]
    ) -> Claimed:
        """Claim until PostgreSQL answers: the token finds what a lost answer had taken."""
        unique = list(dict.fromkeys(item.pointer.job_id for item in taken))
        lanes = {item.source for item in taken}
        by = Claim(
            self._claimer.worker_id,
            uuid7(),
            self._claimer.lease_seconds,
            self._claimer.job_types,
            self._claimer.key_ids,
            self._claimer.running_quota,
        )
        failures = 0
        while True:
            try:
                async with self._database.connection() as connection:
                    claimed = await claim_fairly(
                        connection,
                        unique,
                        by,
                        slots=self._executor.free,
                        # Less urgent lanes have what these leave.
                        waiting=sum(self._spent.count_others(lane.buffered) for lane in lanes),
                        again=failures > 0,
                    )
            except _DATABASE_AWAY as error:
                failures += 1
                log.warning("claim_waits", failures=failures, error=str(error))
                if not isinstance(error, _CONFLICTS):
                    await on_outage()
                await asyncio.sleep(pause_seconds(failures))
            else:
                log.debug("claimed", asked=len(unique), instead=len(claimed.instead))
                return claimed

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
