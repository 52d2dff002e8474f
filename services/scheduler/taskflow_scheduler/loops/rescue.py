"""Takes jobs from workers that are gone: what runs under a lease that ran out."""

from collections.abc import Sequence

import structlog

from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import JobState
from taskflow.jobs.upkeep import Rescued, database_time, rescue
from taskflow.relay import Burial, Dispatch, Relay
from taskflow_scheduler.continuity import Continuity
from taskflow_scheduler.loops.unclaimed import RepeatPointers

REASON = "worker_lost"

log = structlog.get_logger(__name__)


class RescueOrphans:
    """Rescues, except after an outage: then the leases of live workers have run out as well.

    They get two heartbeat periods to renew them. A gap shorter than one can't end the lease of a
    live worker, for a lease is at least two long. `rescued` counts the jobs taken.

    Who does not lead watches, so that a change of the lead costs orphans no such wait.

    Their pointers are published in the same round, and handed to `unclaimed`.
    """

    def __init__(
        self,
        database: Database,
        relay: Relay,
        unclaimed: RepeatPointers,
        *,
        heartbeat_seconds: float,
    ) -> None:
        self.rescued = 0
        self._database = database
        self._relay = relay
        self._unclaimed = unclaimed
        self._hold_off = 2 * heartbeat_seconds
        self._contact = Continuity(longest_gap_seconds=heartbeat_seconds)

    async def round(self) -> bool:
        """Rescue one slice; whether there is more."""
        try:
            return await self._round()
        except BaseException:
            self._contact.end()
            raise

    async def watch(self) -> None:
        """Stay in contact with the database while another process leads."""
        try:
            async with self._database.connection() as connection:
                await database_time(connection)
        except BaseException:
            self._contact.end()
            raise
        self._contact.look()

    async def _round(self) -> bool:
        async with self._database.connection() as connection:
            # Judged by the time of this answer: if the database is frozen from here on, the
            # statement below comes when leases have run out that nobody could renew.
            seen_at = await database_time(connection)
            if self._contact.look() < self._hold_off:
                return False
            rescued = await rescue(
                connection, expired_before=seen_at, with_pointers=self._relay.ready
            )
        self._send(rescued)
        self._report(rescued)
        return len(rescued) == SLICE

    def _send(self, rescued: Sequence[Rescued]) -> None:
        pointers = [job.pointer for job in rescued if job.pointer is not None]
        self._relay.send(Dispatch(pointer) for pointer in pointers)
        self._unclaimed.watch(pointers)
        self._relay.send(
            Burial(Pointer(job.job_id, job.lane, job.type, job.at), REASON)
            for job in rescued
            if job.state is JobState.FAILED
        )

    def _report(self, rescued: Sequence[Rescued]) -> None:
        self.rescued += len(rescued)
        for job in rescued:
            log.warning(
                "job_rescued",
                job_id=str(job.job_id),
                attempt=job.attempt,
                worker_id=str(job.worker_id),
                state=job.state,
            )
