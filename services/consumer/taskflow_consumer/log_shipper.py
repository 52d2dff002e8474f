"""Brings the logs of jobs to the object store, beside the jobs and never in their way."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from taskflow.db.pool import Database
from taskflow.jobs.attempts import ClaimedJob
from taskflow.object_store import ObjectStore
from taskflow.patience import pause_seconds
from taskflow.sdk.context import AttemptLog
from taskflow_consumer.log_backlog import AttemptLines, Backlog, Batch
from taskflow_consumer.log_objects import (
    STORAGE_AWAY,
    STORAGE_REFUSES,
    Composer,
    LogObject,
    LogStorage,
)
from taskflow_consumer.log_outage import Outage
from taskflow_consumer.log_spool import LogSpool
from taskflow_consumer.log_spooler import LogSpooler, end_of

_COALESCE_SECONDS = 0.03
"""How long a finished log waits for company when nothing was stored lately."""
_LEAST_INTERVAL_SECONDS = 0.25
"""Between two uploads under load: the more jobs end, the more of them share an object."""
_LONGEST_PAUSE_SECONDS = 5.0
_SPOOL_REST_SECONDS = 3.0
"""How long the disk may take for what is left at the end."""

log = structlog.get_logger(__name__)


class LogShipper:
    """Stores what attempts log: every `flush_seconds`, and soon after an attempt's end.

    One round follows the other: objects first, a tenant's lines of many jobs in each, then the
    rows that name them. A round that fails goes to the spool, and so do those that follow until
    the spool has been stored, so a job's lines never change their order. Without a spool, or with
    no room in it, a round is repeated as it was until it succeeds; meanwhile the backlog collects,
    and drops what it can't hold.
    """

    def __init__(
        self,
        object_store: ObjectStore,
        database: Database,
        worker_id: UUID,
        *,
        flush_seconds: float,
        attempt_max_bytes: int,
        buffer_max_bytes: int,
        spool: LogSpool | None = None,
    ) -> None:
        self._storage = LogStorage(object_store, database)
        self._composer = Composer(worker_id)
        self._outage = Outage()
        self._spooler = None if spool is None else LogSpooler(spool, self._storage, self._outage)
        self._flush_seconds = flush_seconds
        self._loop = asyncio.get_running_loop()
        self._due = asyncio.Event()
        self._pressing = asyncio.Event()
        self._draining = asyncio.Event()
        self._next_flush = self._loop.time() + flush_seconds
        self._last_round = 0.0
        self._backlog = Backlog(
            attempt_max_bytes=attempt_max_bytes,
            buffer_max_bytes=buffer_max_bytes,
            on_pressing=self._press_from_any_thread,
            on_closed=self._due.set,
        )
        self._in_hand: _Round | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, job: ClaimedJob) -> AttemptLog:
        """The log of a job's attempt that begins."""
        return AttemptLines(self._backlog, job)

    def start(self) -> None:
        """Begin to store; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="log-shipper")
            if self._spooler is not None:
                self._spooler.start()

    async def finish(self) -> None:
        """Return when all is stored, or lies on disk and can't be stored now."""
        self._draining.set()
        self._press()
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._spooler is not None:
            await self._spooler.finish()

    async def drain(self, timeout_seconds: float) -> None:
        """Store what can be in time, spool the rest (some seconds more for the disk), and end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self.finish()
        if self._task is not None:
            self._task.cancel()
            await end_of(self._task, "log_shipper_failed")
        if self._spooler is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SPOOL_REST_SECONDS):
                    await self._spool_rest(self._spooler)
            await self._spooler.stop()
        left = self._backlog.shut()
        if left.lines:
            log.error("log_lines_lost", lines=left.lines, bytes=left.bytes, reason="shutdown")

    def _press_from_any_thread(self) -> None:
        # A thread may outlive the loop; its lines have nobody left to store them.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._press)

    def _press(self) -> None:
        self._pressing.set()
        self._due.set()

    async def _run(self) -> None:
        while not (self._draining.is_set() and self._backlog.is_empty):
            await self._wait_until_due()
            only_closed = self._begin_round()
            while await self._store_batch(only_closed=only_closed):
                pass

    async def _wait_until_due(self) -> None:
        """Until the next flush, or a little after an attempt's end, or at once under pressure."""
        if self._spooler is not None and not self._spooler.is_empty:
            # Nobody can read them yet, so ended attempts wait as well: the files are fewer.
            await _is_set_within(self._pressing, self._next_flush - self._loop.time())
            return
        if await _is_set_within(self._due, self._next_flush - self._loop.time()):
            since_last = self._loop.time() - self._last_round
            company = max(_COALESCE_SECONDS, _LEAST_INTERVAL_SECONDS - since_last)
            await _is_set_within(self._pressing, company)

    def _begin_round(self) -> bool:
        """Whether this round is for the logs of finished attempts alone."""
        now = self._loop.time()
        only_closed = not self._pressing.is_set() and now < self._next_flush
        if not only_closed:
            self._next_flush = now + self._flush_seconds
        self._last_round = now
        if not self._draining.is_set():
            self._due.clear()
            self._pressing.clear()
        return only_closed

    async def _store_batch(self, *, only_closed: bool) -> bool:
        """One round; whether more is due at once."""
        batch = self._backlog.take(only_closed=only_closed, why_lost=self._outage.why_lost)
        if not batch.stretches:
            return False
        objects = self._composer.compose(batch.stretches)
        self._in_hand = _Round(batch, objects)
        is_well = not self._outage.is_on
        try:
            is_well = await self._bring(objects) and is_well
        except Exception:
            # A defect: without these lines the others can still go on.
            log.exception("log_lines_lost", lines=self._in_hand.lines, reason="defect")
        self._in_hand = None
        self._backlog.settle(batch)
        if is_well and not (only_closed or batch.is_partial):
            self._outage.forget()
        forgotten = self._backlog.collect_forgotten()
        if forgotten.lines:
            log.error("log_lines_lost", lines=forgotten.lines, bytes=forgotten.bytes, reason="room")
        return batch.is_partial

    async def _bring(self, objects: Sequence[LogObject]) -> bool:
        """To the object store; while it is away, or others wait in the spool, to the spool.

        Whether it was stored straight away.
        """
        failures = 0
        while True:
            if self._spooler is None or self._spooler.is_empty:
                try:
                    await self._storage.store(objects)
                except STORAGE_AWAY as error:
                    if isinstance(error, STORAGE_REFUSES):
                        raise
                    self._outage.begin(error)
                else:
                    self._outage.end()
                    return not failures
            if self._spooler is not None and await self._spooler.keep(objects):
                return False
            failures += 1
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        pause = pause_seconds(failures, last=_LONGEST_PAUSE_SECONDS)
        if not self._draining.is_set():
            await _is_set_within(self._draining, pause)
        else:
            await asyncio.sleep(min(pause, _LEAST_INTERVAL_SECONDS))

    async def _spool_rest(self, spooler: LogSpooler) -> None:
        """Keep on disk what could not be stored, first what was taken first."""
        in_hand, self._in_hand = self._in_hand, None
        rest = in_hand or self._take_all()
        while rest is not None and await spooler.keep(rest.objects):
            self._backlog.settle(rest.batch)
            rest = self._take_all()

    def _take_all(self) -> "_Round | None":
        batch = self._backlog.take(only_closed=False, why_lost=self._outage.why_lost)
        if not batch.stretches:
            return None
        return _Round(batch, self._composer.compose(batch.stretches))


@dataclass(frozen=True, slots=True)
class _Round:
    """What was taken out of the backlog at once, and the objects made of it."""

    batch: Batch
    objects: Sequence[LogObject]

    @property
    def lines(self) -> int:
        return sum(item.lines for item in self.objects)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return False
    return True
