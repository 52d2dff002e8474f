"""Jobs that PostgreSQL may commit after their submission was given up.

A server carries out what it was sent, a statement that is a transaction by itself or a COMMIT,
though its client has gone, with the stamp of a pointer that nobody publishes then. The sweep of
lost pointers would find such a job most of a minute later. Here it is found as soon as PostgreSQL
answers, and published like any other.
"""

import asyncio
from collections.abc import Iterable
from uuid import UUID

import structlog

from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.dispatch import find_committed
from taskflow.relay import Dispatch, Relay

LOOK_SECONDS = 1.0

LATEST_SECONDS = 15.0
"""How long looks go on once PostgreSQL answers: for longer than a statement is allowed to take."""

MAX_JOBS = 10_000
"""How many jobs may be in doubt; those beyond are left to the sweep of lost pointers."""

_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)

log = structlog.get_logger(__name__)


class LateCommits:
    """Looks for jobs in doubt while there are any, and publishes those that are there.

    What is in doubt when the process ends is left to the sweep. A job that somebody else publishes
    as well gets a second pointer, which does no harm.
    """

    def __init__(self, database: Database, relay: Relay) -> None:
        self._database = database
        self._relay = relay
        self._in_doubt: set[UUID] = set()
        self._answers_until: float | None = None
        """When the last look is due; None until PostgreSQL has answered one (the loop's time)."""
        self._looking: asyncio.Task[None] | None = None

    @property
    def in_doubt(self) -> int:
        """How many jobs are looked for."""
        return len(self._in_doubt)

    def watch(self, job_ids: Iterable[UUID]) -> None:
        """Look for these jobs until they are there or can't be committed any more."""
        wanted = self._in_doubt.union(job_ids)
        if len(wanted) > MAX_JOBS:
            log.warning("late_commits_left_to_scheduler", limit=MAX_JOBS)
            return
        self._in_doubt = wanted
        self._answers_until = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="late-commits")

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look_on(self) -> None:
        while self._in_doubt:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except _UNREACHABLE:
                # What a server was about to commit when it froze, it still is when it thaws.
                self._answers_until = None
            except Exception:
                log.exception("late_commits_broke", left_to_scheduler=len(self._in_doubt))
                self._in_doubt = set()

    async def _look(self) -> None:
        async with self._database.connection() as connection:
            committed = await find_committed(connection, self._in_doubt)
        self._in_doubt -= committed.keys()
        if pointers := [pointer for pointer in committed.values() if pointer is not None]:
            log.info("late_commits_published", count=len(pointers))
            self._relay.send(map(Dispatch, pointers))
        now = asyncio.get_running_loop().time()
        if self._answers_until is None:
            self._answers_until = now + LATEST_SECONDS
        elif now > self._answers_until:
            self._in_doubt = set()
