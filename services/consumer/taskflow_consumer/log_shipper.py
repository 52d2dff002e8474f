"""Brings the logs of jobs to the object store, beside the jobs and never in their way."""

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import asyncpg
import structlog

from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.log_lines import rfc3339
from taskflow.log_store import CONTENT_TYPE, log_object_key
from taskflow.object_store import ObjectStore
from taskflow.patience import pause_seconds
from taskflow.sdk.context import AttemptLog
from taskflow_consumer.log_backlog import AttemptLines, Backlog, Batch, Stretch

_COALESCE_SECONDS = 0.03
"""How long a finished log waits for company when nothing was stored lately."""
_LEAST_INTERVAL_SECONDS = 0.25
"""Between two uploads under load: the more jobs end, the more of them share an object."""
_LONGEST_PAUSE_SECONDS = 5.0
_PARALLEL_UPLOADS = 4
_TOO_FAST = "the log was written faster than it could be stored"
_REPEATED: tuple[type[BaseException], ...] = (
    *TRANSIENT_ERRORS,
    ServiceUnavailable,
    # A standby that is read-only, a schema that is behind: they pass, too.
    asyncpg.PostgresError,
)
_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""What the same rows would meet again and again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _LogObject:
    key: str
    data: bytes
    chunks: Sequence[LogChunk]


class LogShipper:
    """Stores what attempts log: every `flush_seconds`, and soon after an attempt's end.

    One round follows the other: objects first, a tenant's lines of many jobs in each, then the
    rows that name them. A round that fails is repeated as it was until it succeeds, so a job's
    lines never change their order; meanwhile the backlog collects, and drops what it can't hold.
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
    ) -> None:
        self._object_store = object_store
        self._database = database
        self._worker_id = worker_id
        self._flush_seconds = flush_seconds
        self._sequence = itertools.count(1)
        self._uploads = asyncio.Semaphore(_PARALLEL_UPLOADS)
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
        self._outage_since: datetime | None = None
        self._why_lost = _TOO_FAST
        self._task: asyncio.Task[None] | None = None

    def open(self, job: ClaimedJob) -> AttemptLog:
        """The log of a job's attempt that begins."""
        return AttemptLines(self._backlog, job)

    def start(self) -> None:
        """Begin to store; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="log-shipper")

    async def drain(self, timeout_seconds: float) -> None:
        """Store what can be stored in time, take no more lines, and end."""
        self._draining.set()
        self._press()
        if self._task is not None:
            _, unfinished = await asyncio.wait({self._task}, timeout=timeout_seconds)
            for task in unfinished:
                task.cancel()
            (ended,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(ended, Exception):
                log.error("log_shipper_failed", exc_info=ended)
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
        batch = self._backlog.take(only_closed=only_closed, why_lost=self._why_lost)
        if not batch.stretches:
            return False
        try:
            objects = self._compose(batch)
            async with asyncio.TaskGroup() as uploads:
                for item in objects:
                    uploads.create_task(self._insist(partial(self._upload, item)))
            chunks = [chunk for item in objects for chunk in item.chunks]
            await self._insist(partial(self._name, chunks))
        except Exception:
            # A defect: without these lines the others can still go on.
            lines = sum(stretch.lines.count for stretch in batch.stretches)
            log.exception("log_lines_lost", lines=lines, reason="defect")
        self._backlog.settle(batch)
        if self._outage_since is None and not (only_closed or batch.is_partial):
            self._why_lost = _TOO_FAST  # Every log has said its gaps by now.
        self._note_recovery()
        return batch.is_partial

    def _compose(self, batch: Batch) -> list[_LogObject]:
        by_tenant: defaultdict[UUID, list[Stretch]] = defaultdict(list)
        for stretch in batch.stretches:
            by_tenant[stretch.tenant_id].append(stretch)
        day = datetime.now(UTC).date()
        objects = []
        for tenant_id, stretches in by_tenant.items():
            key = log_object_key(tenant_id, day, self._worker_id, next(self._sequence))
            data = b"".join(stretch.lines.data for stretch in stretches)
            objects.append(_LogObject(key, data, _chunks(key, stretches)))
        return objects

    async def _upload(self, item: _LogObject) -> None:
        async with self._uploads:
            await self._object_store.put(item.key, item.data, CONTENT_TYPE)

    async def _name(self, chunks: Sequence[LogChunk]) -> None:
        async with self._database.connection() as connection:
            await insert_chunks(connection, chunks)

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat until it succeeds: each of our writes may be done twice."""
        failures = 0
        while True:
            try:
                return await write()
            except _REPEATED as error:
                if isinstance(error, _REFUSED):
                    raise
                failures += 1
                self._note_failure(error)
            pause = pause_seconds(failures, last=_LONGEST_PAUSE_SECONDS)
            if not self._draining.is_set():
                await _is_set_within(self._draining, pause)
            else:
                await asyncio.sleep(min(pause, _LEAST_INTERVAL_SECONDS))

    def _note_failure(self, error: BaseException) -> None:
        if self._outage_since is None:
            self._outage_since = datetime.now(UTC)
            service = error.service if isinstance(error, ServiceUnavailable) else "PostgreSQL"
            self._why_lost = f"{service} was unreachable from {rfc3339(self._outage_since)}"
            log.warning("log_storage_unreachable", service=service, error=str(error))

    def _note_recovery(self) -> None:
        forgotten = self._backlog.collect_forgotten()
        if forgotten.lines:
            log.error("log_lines_lost", lines=forgotten.lines, bytes=forgotten.bytes, reason="room")
        if self._outage_since is not None:
            now = datetime.now(UTC)
            self._why_lost += f" to {rfc3339(now)}"
            seconds = (now - self._outage_since).total_seconds()
            self._outage_since = None
            log.info("log_storage_reachable_again", seconds=seconds)


def _chunks(key: str, stretches: Sequence[Stretch]) -> list[LogChunk]:
    """The rows of an object that holds these stretches one after the other."""
    chunks = []
    offset = 0
    for stretch in stretches:
        stored = StoredLogRange(key, offset, len(stretch.lines.data))
        chunks.append(
            LogChunk(
                stretch.tenant_id, stretch.job_id, stretch.attempt, stored, stretch.lines.count
            )
        )
        offset += stored.byte_length
    return chunks


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return False
    return True
