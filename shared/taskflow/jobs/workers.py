"""What a worker says of itself: that it is there, what it can do, how far its lanes are taken."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.lanes import Lane
from taskflow.jobs.worker_state import WorkerState


@dataclass(frozen=True, slots=True)
class WorkerRegistration:
    """A worker as it introduces itself at its start; `id` is new at every start."""

    id: UUID
    host: str
    pid: int
    version: str
    queues: Sequence[str]
    job_types: Sequence[str]
    concurrency: int


_REGISTER = """
INSERT INTO workers (id, host, pid, version, state, queues, job_types, concurrency)
VALUES ($1, $2, $3, $4, 'running', $5, $6, $7)
ON CONFLICT (id) DO UPDATE
SET host = excluded.host, pid = excluded.pid, version = excluded.version,
    state = excluded.state, queues = excluded.queues, job_types = excluded.job_types,
    concurrency = excluded.concurrency, heartbeat_at = clock_timestamp()
"""


async def register_worker(connection: Connection, worker: WorkerRegistration) -> None:
    """Enter a worker as running; the same again changes nothing but its heartbeat."""
    await connection.execute(
        _REGISTER,
        worker.id,
        worker.host,
        worker.pid,
        worker.version,
        list(worker.queues),
        list(worker.job_types),
        worker.concurrency,
    )


# Also handed to the heartbeat process, which knows no SQL of its own.
BEAT = """
UPDATE workers
SET heartbeat_at = clock_timestamp(), watermarks = watermarks || $2::jsonb
WHERE id = $1
RETURNING id
"""


def watermarks_json(watermarks: Mapping[str, datetime]) -> str:
    """The column's form of watermarks by lane key: RFC 3339 times."""
    return json.dumps({key: newest.isoformat() for key, newest in watermarks.items()})


async def beat_worker(
    connection: Connection, worker_id: UUID, watermarks: Mapping[Lane, datetime]
) -> bool:
    """Say that the worker lives, and per lane the newest `pointer_at` that it has claimed.

    False: the worker isn't registered, or its row was pruned.
    """
    by_key = {lane.key: newest for lane, newest in watermarks.items()}
    found = await connection.fetchval(BEAT, worker_id, watermarks_json(by_key))
    return found is not None


async def set_worker_state(connection: Connection, worker_id: UUID, state: WorkerState) -> None:
    """Mark a worker as draining or stopped."""
    await connection.execute(
        "UPDATE workers SET state = $2, heartbeat_at = clock_timestamp() WHERE id = $1",
        worker_id,
        state,
    )


_SERVED_QUEUES = """
SELECT DISTINCT unnest(queues) AS queue FROM workers
WHERE state <> 'stopped' AND heartbeat_at > now() - make_interval(secs => $1)
"""


async def served_queues(connection: Connection, *, lost_after_seconds: float) -> set[str]:
    """The queues that live workers take jobs from."""
    rows = await connection.fetch(_SERVED_QUEUES, lost_after_seconds)
    return {row["queue"] for row in rows}


@dataclass(frozen=True, slots=True)
class JobTypeRegistration:
    """A job type as a consumer knows it; `schema` is the JSON schema of its payload."""

    name: str
    schema: Mapping[str, Any]
    queue: str
    max_attempts: int
    timeout_seconds: float | None
    description: str | None


# What is unchanged is left out before the conflict: even an update that changes nothing would
# lock the row, and every consumer of a fleet starts with the same types.
_REGISTER_JOB_TYPES = """
WITH input AS (
    SELECT * FROM json_to_recordset($1::json) AS input (
        name text, schema jsonb, queue text, max_attempts int, timeout_seconds float8,
        description text)
)
INSERT INTO job_types AS known (name, schema, queue, max_attempts, timeout_seconds, description)
SELECT name, schema, queue, max_attempts, timeout_seconds, description
FROM input
WHERE NOT EXISTS (
    SELECT FROM job_types AS same
    WHERE same.name = input.name
      AND (same.schema, same.queue, same.max_attempts, same.timeout_seconds, same.description)
          IS NOT DISTINCT FROM
          (input.schema, input.queue, input.max_attempts, input.timeout_seconds, input.description))
ORDER BY name
ON CONFLICT (name) DO UPDATE
SET schema = excluded.schema, queue = excluded.queue, max_attempts = excluded.max_attempts,
    timeout_seconds = excluded.timeout_seconds, description = excluded.description,
    updated_at = clock_timestamp()
RETURNING known.name
"""


async def register_job_types(
    connection: Connection, job_types: Sequence[JobTypeRegistration]
) -> list[str]:
    """Enter what consumers can do, so that the API can validate payloads; the names that changed.

    Two consumers with different schemas of one type: the one that started last stands.
    """
    rows = await connection.fetch(
        _REGISTER_JOB_TYPES,
        json.dumps(
            [
                {
                    "name": job_type.name,
                    "schema": dict(job_type.schema),
                    "queue": job_type.queue,
                    "max_attempts": job_type.max_attempts,
                    "timeout_seconds": job_type.timeout_seconds,
                    "description": job_type.description,
                }
                for job_type in job_types
            ]
        ),
    )
    return [row["name"] for row in rows]
