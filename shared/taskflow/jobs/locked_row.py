"""One job's row, locked for a client's command: to judge by, with its event and its pointer.

The event tells what became of the job, the audit log who asked for it.
"""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.access import audit_log
from taskflow.access.audit_log import Act, Origin
from taskflow.db.pool import Connection
from taskflow.errors import JobNotFound
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import JobEvent, JobState, Priority
from taskflow.jobs.usage import count_changes

# Columns by name: the answer of `*` changes with every migration, and a prepared statement whose
# answer changes fails inside a transaction.
_LOCK = """
SELECT id, tenant_id, type, queue, priority, state, payload, payload_bytes, attribute_bytes,
       name, description, tags, metadata, unique_key, depends_on, has_dependents, run_at,
       expires_at, attempt, worker_id, cancel_requested, created_at, updated_at
FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE
"""

_ANY = frozenset(JobState)

_RECORD = f"""
WITH moved AS (
    SELECT $2::uuid AS tenant_id, $4::job_state AS source, $5::job_state AS state
    WHERE $4::job_state <> $5::job_state
), usage AS (
    {count_changes("moved", sources=_ANY, targets=_ANY)}
)
INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt, worker_id, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)
"""


async def lock(connection: Connection, tenant_id: UUID, job_id: UUID) -> Any:
    """The job's row, which nobody else changes until the transaction ends.

    Raises:
        JobNotFound: this tenant has no such job.
    """
    row = await connection.fetchrow(_LOCK, tenant_id, job_id)
    if row is None:
        raise JobNotFound(job_id)
    return row


async def record(
    connection: Connection, row: Any, event: JobEvent, target: JobState, detail: Any = None
) -> None:
    """Write an event of the job's history and count it; `row` is the job as it was before."""
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


async def audit(
    connection: Connection,
    row: Any,
    origin: Origin | None,
    verb: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write down who has asked for it; without an origin nobody has."""
    if origin is not None:
        act = Act(f"job.{verb}", "job", str(row["id"]), before, after)
        await audit_log.record(connection, row["tenant_id"], origin, act)


def pointer_of(row: Any, pointer_at: datetime, priority: Priority | None = None) -> Pointer:
    """The pointer to publish, into the lane of `priority` if the job has a new one."""
    lane = Lane(row["queue"], priority or Priority(row["priority"]))
    return Pointer(row["id"], lane, row["type"], pointer_at)
