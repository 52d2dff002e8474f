"""What a client may change of a job that waits."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.access.audit_log import Origin
from taskflow.db.pool import Connection
from taskflow.errors import InvalidContent, JobStateConflict, VersionMismatch
from taskflow.jobs.locked_row import audit, lock, pointer_of, record
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.quotas import DefaultQuotas, attributes_size, payload_size
from taskflow.jobs.room import NO_QUOTAS, Room, room_for_more
from taskflow.jobs.schemas import JobPatch
from taskflow.jobs.states import WAITING, JobEvent, JobState, Priority, sources
from taskflow.jobs.usage import count_growth
from taskflow.sealing.ring import Part, Place, SealingKeyRing

_PATCH = """
UPDATE jobs
SET state = $2, priority = $3, run_at = $4, payload = $5::jsonb, payload_bytes = $6, tags = $7,
    metadata = $8::jsonb, attribute_bytes = $9, expires_at = $10,
    pointer_at = CASE WHEN $11 THEN CASE WHEN $2 = 'queued'::job_state THEN clock_timestamp() END
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
    ring: SealingKeyRing,
    *,
    if_version: Collection[datetime] | None,
    origin: Origin | None = None,
    quotas: DefaultQuotas = NO_QUOTAS,
) -> Pointer | None:
    """Change a waiting job; its new pointer if one must be published.

    `if_version`: the job's `updated_at` must be one of these still; None: it doesn't matter.
    `origin`: whose doing it is, for the audit log.

    Raises:
        JobNotFound: this tenant has no such job.
        VersionMismatch: it has changed since `if_version`.
        JobStateConflict: it doesn't wait.
        InvalidContent: its expiry would have passed.
        QuotaExceeded: the tenant (`quotas`, if it has none of its own) has no room for more.
    """
    async with connection.transaction():
        room = None
        if change.model_fields_set & {"payload", "tags", "metadata"}:
            room = await room_for_more(connection, tenant_id, quotas)
        row = await lock(connection, tenant_id, job_id)
        if if_version is not None and row["updated_at"] not in if_version:
            raise VersionMismatch("The job has changed since the version in If-Match.")
        state = JobState(row["state"])
        if state not in WAITING:
            raise JobStateConflict(
                job_id, state, f"The job is {state}: only a waiting job can be changed."
            )
        now = await connection.fetchval("SELECT clock_timestamp()")
        content = _content_of(row, change, ring)
        pointer = await _apply(connection, row, change, state, now, content=content)
        if room is not None:
            await _count_growth(connection, row, room, content)
        # Names alone: what a job is about may be secret.
        after = {"changed": sorted(change.model_fields_set)}
        await audit(connection, row, origin, "change", after=after)
        return pointer


@dataclass(frozen=True, slots=True)
class _Content:
    """What is stored of what the client has sent, and what quotas count of it."""

    payload_json: str
    payload_bytes: int
    tags: Sequence[str]
    metadata_json: str
    attribute_bytes: int


def _content_of(row: Any, change: JobPatch, ring: SealingKeyRing) -> _Content:
    """The content to store; a payload that isn't changed stays as it is, and isn't opened.

    Nor is a size ever a difference to what is stored: PostgreSQL writes 1e308 as 309 digits, so
    that who takes it away would gain more than it has counted for.
    """
    payload_json, payload_bytes = row["payload"], row["payload_bytes"]
    if change.payload is not None:
        place = Place(row["tenant_id"], row["id"], Part.PAYLOAD)
        payload_json = ring.seal_json(place, json.dumps(change.payload))
        payload_bytes = payload_size(change.payload)
    tags = row["tags"] if change.tags is None else change.tags
    metadata = json.loads(row["metadata"]) if change.metadata is None else change.metadata
    attribute_bytes = row["attribute_bytes"]
    if change.model_fields_set & {"tags", "metadata"}:
        attribute_bytes = attributes_size((row["name"], row["description"], *tags), metadata)
    return _Content(payload_json, payload_bytes, tags, json.dumps(metadata), attribute_bytes)


async def _count_growth(connection: Connection, row: Any, room: Room, content: _Content) -> None:
    before = row["payload_bytes"] + row["attribute_bytes"]
    growth = content.payload_bytes + content.attribute_bytes - before
    refusal = room.quotas.refusal(room.usage, growth, jobs=0) if growth > 0 else None
    if refusal is not None:
        raise refusal
    await count_growth(connection, row["tenant_id"], growth)


async def _apply(
    connection: Connection,
    row: Any,
    change: JobPatch,
    state: JobState,
    now: datetime,
    *,
    content: _Content,
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
        content.payload_json,
        content.payload_bytes,
        content.tags,
        content.metadata_json,
        content.attribute_bytes,
        expires_at,
        # A retrying job's pointer is somewhere on the ladder and finds its way by itself.
        moves and target is not JobState.RETRYING,
    )
    if target is not state:
        detail = {"run_at": run_at.isoformat()}
        await record(connection, row, JobEvent.RESCHEDULE, target, detail)
    publish = moves and target is JobState.QUEUED
    return pointer_of(row, pointer_at, priority) if publish else None


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
