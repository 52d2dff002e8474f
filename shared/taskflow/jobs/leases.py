"""What a worker's heartbeat writes: it keeps the leases of what the worker holds while that lives.

Leases are prolonged by the attempts that are held, never by the worker alone, and whatever their
time; given up by the worker, when it is dead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from taskflow.db.pool import Connection


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that is still this worker's."""

    job_id: UUID
    attempt_number: int
    cancel_requested: bool


# Also handed to the heartbeat process, which knows no SQL of its own.
# It never waits: one row that a frozen writer holds would cost all other jobs their leases. A row
# that is passed over has the next beats; the rescue passes it over as well.
RENEW = """
WITH held AS MATERIALIZED (
    SELECT jobs.id, jobs.attempt, jobs.cancel_requested
    FROM jobs JOIN unnest($1::uuid[], $2::int[]) AS held (id, attempt)
      ON jobs.id = held.id AND jobs.attempt = held.attempt
    WHERE jobs.state = 'running' AND jobs.worker_id = $3
), unlocked AS MATERIALIZED (
    SELECT jobs.id FROM jobs JOIN held ON jobs.id = held.id AND jobs.attempt = held.attempt
    WHERE jobs.state = 'running' AND jobs.worker_id = $3
    FOR UPDATE OF jobs SKIP LOCKED
), renewed AS (
    UPDATE jobs
    SET lease_expires_at = clock_timestamp() + make_interval(secs => $4)
    FROM unlocked
    WHERE jobs.id = unlocked.id
)
SELECT id, attempt, cancel_requested FROM held
"""


# By the heartbeat process, when the worker ($1) is dead: all that it had claimed, also what it died
# before it could tell. Rows that others hold are passed over.
SURRENDER = """
WITH held AS MATERIALIZED (
    SELECT id FROM jobs
    WHERE state = 'running' AND worker_id = $1 AND lease_expires_at > clock_timestamp()
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET lease_expires_at = clock_timestamp() FROM held WHERE jobs.id = held.id
"""


async def renew(
    connection: Connection,
    held: Sequence[tuple[UUID, int]],
    *,
    worker_id: UUID,
    lease_seconds: float,
) -> list[Held]:
    """Prolong the leases of exactly these (job id, attempt number) pairs, without waiting.

    A pair that is missing from the answer is lost: the job has moved on without this worker. The
    lease of a row that another writer holds at this moment stays as it is.
    """
    rows = await connection.fetch(
        RENEW,
        [job_id for job_id, _ in held],
        [number for _, number in held],
        worker_id,
        lease_seconds,
    )
    return [Held(row["id"], row["attempt"], row["cancel_requested"]) for row in rows]
