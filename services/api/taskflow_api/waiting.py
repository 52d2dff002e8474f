"""Waiting for jobs to end: one look at the database for all who wait, only while somebody does."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection
from contextvars import Context
from uuid import UUID

import structlog

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.ends import ended_among

MAX_WAITS_OF_TENANT = 1_000
"""How many requests of a tenant are held at a time: each keeps its connection, its tasks and its
memory, and no limit of requests bounds what is held for 30 s."""
LOOK_EVERY_SECONDS = 0.1
LOOK_EVERY_SECONDS_WHILE_AWAY = 1.0

_NOT_NOW: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, *REFUSALS, ServiceUnavailable)

log = structlog.get_logger(__name__)


class Waiters:
    """Those who wait for a job's end; a wait holds no connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[UUID, set[asyncio.Future[None]]] = defaultdict(set)
        self._waits: Counter[UUID] = Counter()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    async def wait(self, tenant_id: UUID, job_id: UUID, seconds: float) -> bool:
        """Return when the job has ended (or is gone), the time is over, or the process stops.

        At once, and with False, when as many wait for jobs of this tenant as may.
        """
        if self._closed or self._waits[tenant_id] >= MAX_WAITS_OF_TENANT:
            return False
        self._waits[tenant_id] += 1
        try:
            await self._wait(job_id, seconds)
        finally:
            self._waits[tenant_id] -= 1
            if not self._waits[tenant_id]:
                del self._waits[tenant_id]
        return True

    async def _wait(self, job_id: UUID, seconds: float) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job_id].add(ended)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(
                self._look(), name="wait-for-ends", context=Context()
            )
        try:
            await asyncio.wait([ended], timeout=seconds)
        finally:
            ended.cancel()
            self._waiting[job_id].discard(ended)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def close(self) -> None:
        """End every wait, and let none begin."""
        self._closed = True
        self._wake(list(self._waiting))

    async def _look(self) -> None:
        pause = LOOK_EVERY_SECONDS
        while self._waiting:
            await asyncio.sleep(pause)
            try:
                async with self._database.connection() as connection:
                    self._wake(await ended_among(connection, list(self._waiting)))
                pause = LOOK_EVERY_SECONDS
            except _NOT_NOW as error:
                # The waits go on to their own ends.
                pause = LOOK_EVERY_SECONDS_WHILE_AWAY
                log.warning("job_ends_not_seen", error=str(error))
            except Exception:
                pause = LOOK_EVERY_SECONDS_WHILE_AWAY
                log.exception("look_for_job_ends_broke")

    def _wake(self, job_ids: Collection[UUID]) -> None:
        for job_id in job_ids:
            for ended in self._waiting.get(job_id, ()):
                if not ended.done():
                    ended.set_result(None)
