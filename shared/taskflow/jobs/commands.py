"""What a client may do to a job that exists: cancel, retry, delete; `patching` has its changes.

Each is one short transaction that locks the job's row, judges, writes the row and its event, and
into the audit log whose doing it is (`origin`).
"""

from typing import Any
from uuid import UUID

import asyncpg

from taskflow.access.audit_log import Origin
from taskflow.db.pool import Connection
from taskflow.errors import JobStateConflict
from taskflow.jobs.dependents import resolve_dependents
from taskflow.jobs.guards import state_list
from taskflow.jobs.locked_row import audit, lock, pointer_of, record
from taskflow.jobs.log_index import take_strays
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.room import NO_QUOTAS, room_for_more
from taskflow.jobs.states import LIVE, TERMINAL, JobEvent, JobState, sources
from taskflow.jobs.usage import KEPT_OF_JOB, count_changes

_CANCEL = """
UPDATE jobs
SET state = 'cancelled', finished_at = moment.at, updated_at = moment.at,
    error = '{"type": "cancelled", "message": "The job was cancelled.", "retryable": false}'
FROM (SELECT clock_timestamp() AS at) AS moment
WHERE id = $1
"""

_REQUEST_CANCEL = """
UPDATE jobs SET cancel_requested = true, updated_at = clock_timestamp() WHERE id = $1
"""


async def cancel(
    connection: Connection, tenant_id: UUID, job_id: UUID, *, origin: Origin | None = None
) -> JobState:
    """Cancel a waiting job, ask for the end of a running one; the state that it has then.

    Raises:
        JobNotFound: this tenant has no such job.
        JobStateConflict: it has ended otherwise.
    """
    async with connection.transaction():
        row = await lock(connection, tenant_id, job_id)
        state = JobState(row["state"])
        if state is JobState.CANCELLED:
            return state
        if state in sources(JobEvent.REQUEST_CANCEL):
            if not row["cancel_requested"]:
                await connection.execute(_REQUEST_CANCEL, job_id)
                await record(connection, row, JobEvent.REQUEST_CANCEL, state)
                await audit(connection, row, origin, "cancel", after={"cancel_requested": True})
            return state
        if state not in sources(JobEvent.CANCEL):
            raise JobStateConflict(
                job_id, state, f"The job has {state} already and can't be cancelled."
            )
        await connection.execute(_CANCEL, job_id)
        await record(connection, row, JobEvent.CANCEL, JobState.CANCELLED)
        await _audit_move(connection, row, origin, "cancel", JobState.CANCELLED)
        if row["has_dependents"]:
            await resolve_dependents(connection, [job_id])
        return JobState.CANCELLED


async def _audit_move(
    connection: Connection, row: Any, origin: Origin | None, verb: str, target: JobState
) -> None:
    before, after = {"state": row["state"]}, {"state": target}
    await audit(connection, row, origin, verb, before=before, after=after)


_RETRY = """
UPDATE jobs
SET state = 'queued', attempt_limit = attempt + max_attempts, run_at = clock_timestamp(),
    expires_at = CASE WHEN expires_at > clock_timestamp() THEN expires_at END,
    pointer_at = clock_timestamp(), cancel_requested = false, error = NULL, finished_at = NULL,
    progress_percent = NULL, progress_message = NULL, updated_at = clock_timestamp()
WHERE id = $1
RETURNING pointer_at
"""

_LIVE_TWIN = f"""
SELECT id FROM jobs
WHERE tenant_id = $1 AND unique_key = $2 AND id <> $3 AND state IN {state_list(LIVE)}
"""

_INCOMPLETE_PARENTS = """
SELECT id FROM jobs WHERE id = ANY($1::uuid[]) AND state <> 'completed' ORDER BY id
"""


# A job that ended while it was blocked has never seen all its parents complete. Of one that was
# deleted since, nobody knows any more whether it ever did.
_PARENTS_GONE_UNFINISHED = """
SELECT id FROM unnest($2::uuid[]) AS parent (id)
WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = parent.id)
  AND (SELECT source FROM job_events WHERE job_id = $1 ORDER BY id DESC LIMIT 1) = 'blocked'
ORDER BY id
"""


async def retry(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    quotas: DefaultQuotas = NO_QUOTAS,
    *,
    origin: Origin | None = None,
) -> Pointer:
    """Queue a job that ended badly again, with a fresh budget; the pointer to publish.

    Raises:
        JobNotFound: this tenant has no such job.
        JobStateConflict: it lives, has completed, or may not run beside or before others.
        QuotaExceeded: the tenant (`quotas`, if it has none of its own) has no room for it.
    """
    async with connection.transaction():
        room = await room_for_more(connection, tenant_id, quotas)
        row = await lock(connection, tenant_id, job_id)
        state = JobState(row["state"])
        if state not in sources(JobEvent.RETRY):
            raise JobStateConflict(
                job_id,
                state,
                f"The job is {state}: only a failed, cancelled or expired one can be retried.",
            )
        await _refuse_if_others_stand_in_the_way(connection, row, state)
        refusal = room.quotas.refusal(room.usage, 0)
        if refusal is not None:
            raise refusal
        try:
            pointer_at = await connection.fetchval(_RETRY, job_id)
        except asyncpg.UniqueViolationError as error:
            # It was being submitted while we looked.
            raise JobStateConflict(
                job_id, state, "Another job with the same unique_key is alive."
            ) from error
        await record(connection, row, JobEvent.RETRY, JobState.QUEUED)
        await _audit_move(connection, row, origin, "retry", JobState.QUEUED)
        return pointer_of(row, pointer_at)


async def _refuse_if_others_stand_in_the_way(
    connection: Connection, row: Any, state: JobState
) -> None:
    if row["unique_key"] is not None:
        twin = await connection.fetchval(_LIVE_TWIN, row["tenant_id"], row["unique_key"], row["id"])
        if twin is not None:
            raise JobStateConflict(
                row["id"], state, f"The job {twin} with the same unique_key is alive."
            )
    parents = await connection.fetch(_INCOMPLETE_PARENTS, row["depends_on"])
    if parents:
        names = ", ".join(str(parent["id"]) for parent in parents)
        raise JobStateConflict(
            row["id"], state, f"It depends on jobs that have not completed: {names}."
        )
    gone = await connection.fetch(_PARENTS_GONE_UNFINISHED, row["id"], row["depends_on"])
    if gone:
        names = ", ".join(str(parent["id"]) for parent in gone)
        raise JobStateConflict(
            row["id"],
            state,
            f"It depends on jobs that were deleted, and had not completed as it ended: {names}.",
        )


_DELETE = f"""
WITH gone AS (
    DELETE FROM jobs WHERE id = $1
    RETURNING tenant_id, state AS source, {KEPT_OF_JOB} AS kept_bytes
), usage AS (
    {count_changes("gone", sources=TERMINAL, kept_bytes="-kept_bytes")}
), events AS (
    DELETE FROM job_events WHERE job_id = $1
), attempts AS (
    DELETE FROM job_attempts WHERE job_id = $1
), chunks AS (
    DELETE FROM log_chunks WHERE job_id = $1
    RETURNING object_key, byte_offset, byte_length
)
INSERT INTO pending_erasures (job_id, tenant_id, job_created_at, log_ranges)
SELECT $1, $2, $3,
       coalesce(jsonb_agg(jsonb_build_array(object_key, byte_offset, byte_length)), '[]')
FROM chunks
"""


async def delete(
    connection: Connection, tenant_id: UUID, job_id: UUID, *, origin: Origin | None = None
) -> None:
    """Remove a finished job's rows, and note what the scheduler has to erase in the object store.

    Raises:
        JobNotFound: this tenant has no such job.
        JobStateConflict: it has not ended.
    """
    async with connection.transaction():
        row = await lock(connection, tenant_id, job_id)
        state = JobState(row["state"])
        if state not in TERMINAL:
            raise JobStateConflict(
                job_id, state, f"The job is {state}: cancel it or wait for its end, then delete."
            )
        await connection.execute(_DELETE, job_id, tenant_id, row["created_at"])
        # Nothing else is left to tell that there was a job.
        before = {"type": row["type"], "state": state}
        await audit(connection, row, origin, "delete", before=before)
    # Lines that were named meanwhile.
    await take_strays(connection, [job_id])
