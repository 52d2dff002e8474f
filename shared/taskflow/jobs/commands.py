"""What a client may do to a job that exists: cancel, retry, patch, delete.

Each is one short transaction that locks the job's row, judges, writes the row and its event.
"""

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from taskflow.db.pool import Connection
from taskflow.errors import InvalidContent, JobNotFound, JobStateConflict, VersionMismatch
from taskflow.jobs.dependents import resolve_dependents
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.states import (
    TERMINAL,
    WAITING,
    JobEvent,
    JobState,
    Priority,
    sources,
)

# Columns by name: the answer of `*` changes with every migration, and a prepared statement whose
# answer changes fails inside a transaction.
_LOCK = """
SELECT id, tenant_id, type, queue, priority, state, payload, tags, metadata, unique_key,
       depends_on, has_dependents, run_at, expires_at, attempt, worker_id, cancel_requested,
       created_at, updated_at
FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE
"""

_RECORD = """
INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt, worker_id, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)
"""


async def _lock(connection: Connection, tenant_id: UUID, job_id: UUID) -> Any:
    row = await connection.fetchrow(_LOCK, tenant_id, job_id)
    if row is None:
        raise JobNotFound(job_id)
    return row


async def _record(
    connection: Connection, row: Any, event: JobEvent, target: JobState, detail: Any = None
) -> None:
    await connection.execute(
        _RECORD,
        row["id"],
        row["tenant_id"],
        event,
        row["state"],
        target,
        row["attempt"],
        row["worker_id"],
        None if detail is None else json.dumps(detail),
    )


_CANCEL = """
UPDATE jobs
SET state = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(),
    error = '{"type": "cancelled", "message": "The job was cancelled.", "retryable": false}'
WHERE id = $1
"""

_REQUEST_CANCEL = """
UPDATE jobs SET cancel_requested = true, updated_at = clock_timestamp() WHERE id = $1
"""


async def cancel(connection: Connection, tenant_id: UUID, job_id: UUID) -> JobState:
    """Cancel a waiting job, ask for the end of a running one; the state that it has then.

    Raises:
        JobNotFound: this tenant has no such job.
        JobStateConflict: it has ended otherwise.
    """
    async with connection.transaction():
        row = await _lock(connection, tenant_id, job_id)
        state = JobState(row["state"])
        if state is JobState.CANCELLED:
            return state
        if state in sources(JobEvent.REQUEST_CANCEL):
            if not row["cancel_requested"]:
                await connection.execute(_REQUEST_CANCEL, job_id)
                await _record(connection, row, JobEvent.REQUEST_CANCEL, state)
            return state
        if state not in sources(JobEvent.CANCEL):
            raise JobStateConflict(
                job_id, state, f"The job has {state} already and can't be cancelled."
            )
        await connection.execute(_CANCEL, job_id)
        await _record(connection, row, JobEvent.CANCEL, JobState.CANCELLED)
        if row["has_dependents"]:
            await resolve_dependents(connection, [job_id])
        return JobState.CANCELLED


_RETRY = """
UPDATE jobs
SET state = 'queued', attempt_limit = attempt + max_attempts, run_at = clock_timestamp(),
    expires_at = CASE WHEN expires_at > clock_timestamp() THEN expires_at END,
    pointer_at = clock_timestamp(), cancel_requested = false, error = NULL, finished_at = NULL,
    progress_percent = NULL, progress_message = NULL, updated_at = clock_timestamp()
WHERE id = $1
RETURNING pointer_at
"""

_LIVE_TWIN = """
SELECT id FROM jobs
WHERE tenant_id = $1 AND unique_key = $2 AND id <> $3 AND state <> ALL($4::job_state[])
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


async def retry(connection: Connection, tenant_id: UUID, job_id: UUID) -> Pointer:
    """Queue a job that ended badly again, with a fresh budget; the pointer to publish.

    Raises:
        JobNotFound: this tenant has no such job.
        JobStateConflict: it lives, has completed, or may not run beside or before others.
    """
    async with connection.transaction():
        row = await _lock(connection, tenant_id, job_id)
        state = JobState(row["state"])
        if state not in sources(JobEvent.RETRY):
            raise JobStateConflict(
                job_id,
                state,
                f"The job is {state}: only a failed, cancelled or expired one can be retried.",
            )
        await _refuse_if_others_stand_in_the_way(connection, row, state)
        try:
            pointer_at = await connection.fetchval(_RETRY, job_id)
        except asyncpg.UniqueViolationError as error:
            # It was being submitted while we looked.
            raise JobStateConflict(
                job_id, state, "Another job with the same unique_key is alive."
            ) from error
        await _record(connection, row, JobEvent.RETRY, JobState.QUEUED)
        return _pointer(row, pointer_at)


async def _refuse_if_others_stand_in_the_way(
    connection: Connection, row: Any, state: JobState
) -> None:
    if row["unique_key"] is not None:
        twin = await connection.fetchval(
            _LIVE_TWIN, row["tenant_id"], row["unique_key"], row["id"], sorted(TERMINAL)
        )
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


def _pointer(row: Any, pointer_at: datetime, priority: Priority | None = None) -> Pointer:
    lane = Lane(row["queue"], priority or Priority(row["priority"]))
    return Pointer(row["id"], lane, row["type"], pointer_at)


_PATCH = """
UPDATE jobs
SET state = $2, priority = $3, run_at = $4, payload = $5::jsonb, tags = $6,
    metadata = $7::jsonb, expires_at = $8,
    pointer_at = CASE WHEN $9 THEN CASE WHEN $2 = 'queued'::job_state THEN clock_timestamp() END
                      ELSE pointer_at END,
    updated_at = clock_timestamp()
WHERE id = $1
RETURNING pointer_at
"""


async def patch(
    connection: Connection,
    tenant_id: UUID,
    job_id: UUID,
    change: JobPatch,
    *,
    if_version: Collection[datetime] | None,
) -> Pointer | None:
    """Change a waiting job; its new pointer if one must be published.

    `if_version`: the job's `updated_at` must be one of these still; None: it doesn't matter.

    Raises:
        JobNotFound: this tenant has no such job.
        VersionMismatch: it has changed since `if_version`.
        JobStateConflict: it doesn't wait.
        InvalidContent: its expiry would have passed.
    """
    async with connection.transaction():
        row = await _lock(connection, tenant_id, job_id)
        if if_version is not None and row["updated_at"] not in if_version:
            raise VersionMismatch("The job has changed since the version in If-Match.")
        state = JobState(row["state"])
        if state not in WAITING:
            raise JobStateConflict(
                job_id, state, f"The job is {state}: only a waiting job can be changed."
            )
        now = await connection.fetchval("SELECT clock_timestamp()")
        return await _apply(connection, row, change, state, now)


async def _apply(
    connection: Connection, row: Any, change: JobPatch, state: JobState, now: datetime
) -> Pointer | None:
    fields = change.model_fields_set
    run_at = row["run_at"] if "run_at" not in fields else (change.run_at or now)
    expires_at = change.expires_at if "expires_at" in fields else row["expires_at"]
    if fields & {"run_at", "expires_at"}:
        _refuse_early_end(fields, run_at, expires_at, now)
    target = _state_at(state, run_at, now) if "run_at" in fields else state
    priority = change.priority or Priority(row["priority"])
    moves = target is not state or "run_at" in fields or priority != row["priority"]
    pointer_at = await connection.fetchval(
        _PATCH,
        row["id"],
        target,
        priority,
        run_at,
        json.dumps(change.payload) if change.payload is not None else row["payload"],
        change.tags if change.tags is not None else row["tags"],
        json.dumps(change.metadata) if change.metadata is not None else row["metadata"],
        expires_at,
        # A retrying job's pointer is somewhere on the ladder and finds its way by itself.
        moves and target is not JobState.RETRYING,
    )
    if target is not state:
        detail = {"run_at": run_at.isoformat()}
        await _record(connection, row, JobEvent.RESCHEDULE, target, detail)
    publish = moves and target is JobState.QUEUED
    return _pointer(row, pointer_at, priority) if publish else None


def _refuse_early_end(
    fields: Collection[str], run_at: datetime, expires_at: datetime | None, now: datetime
) -> None:
    if expires_at is None or expires_at > max(run_at, now):
        return
    if "expires_at" not in fields:
        problem = ("/run_at", "is not before the job expires")
    elif expires_at <= now:
        problem = ("/expires_at", "is in the past")
    else:
        problem = ("/expires_at", "ends before the job may run")
    raise InvalidContent("The job would expire before it could run.", [problem])


def _state_at(state: JobState, run_at: datetime, now: datetime) -> JobState:
    if state not in sources(JobEvent.RESCHEDULE):
        return state
    return JobState.SCHEDULED if run_at > now else JobState.QUEUED


_DELETE = """
WITH gone AS (
    DELETE FROM jobs WHERE id = $1
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


async def delete(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Remove a finished job's rows, and note what the scheduler has to erase in the object store.

    Raises:
        JobNotFound: this tenant has no such job.
        JobStateConflict: it has not ended.
    """
    async with connection.transaction():
        row = await _lock(connection, tenant_id, job_id)
        state = JobState(row["state"])
        if state not in TERMINAL:
            raise JobStateConflict(
                job_id, state, f"The job is {state}: cancel it or wait for its end, then delete."
            )
        await connection.execute(_DELETE, job_id, tenant_id, row["created_at"])
