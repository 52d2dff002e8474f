"""What happens to jobs because time has passed: leases run out, jobs expire, records grow old.

Rows that others hold are skipped, so that nothing here waits for a frozen writer and several
schedulers may run it at once; what one round leaves out the next one finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.dependents import resolve_dependents
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.guards import from_states, state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.losses import LOSSES_SPARED, count_losses
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import TERMINAL, JobEvent, JobState, Priority, sources, targets
from taskflow.jobs.submission_answers import KEY_LIFETIME
from taskflow.jobs.usage import count_changes

LOST_AGAIN_DELAY_SECONDS = 2
"""How long a job waits that loses one worker after another. It is to run again within 20 s."""

WORKERS_KEPT_HOURS = 24

_RFC3339 = 'YYYY-MM-DD"T"HH24:MI:SS"Z"'


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job whose worker was lost, and what became of it."""

    job_id: UUID
    state: JobState
    type: str
    lane: Lane
    attempt: int
    worker_id: UUID
    at: datetime
    pointer_at: datetime | None
    """The stamp of the pointer to publish; None: it has none, or the dispatch sends one later."""

    @property
    def pointer(self) -> Pointer | None:
        """What the caller has to publish."""
        if self.pointer_at is None:
            return None
        return Pointer(self.job_id, self.lane, self.type, self.pointer_at)


_COUNT_RESCUED = count_changes(
    "rescued",
    sources=sources(JobEvent.LEASE_LOST),
    targets=targets(JobEvent.LEASE_LOST, JobEvent.CANCEL),
)

# The first loss of a budget runs again at once; a job that goes on losing its workers may be what
# kills them. Losses are spared (see `losses`) by raising the limit, so that the numbers of attempts
# go on rising; but who asks for one attempt alone wants the handler never to be begun twice.
_RESCUE = f"""
WITH orphaned AS MATERIALIZED (
    SELECT id, attempt, attempt_limit, max_attempts, worker_id, cancel_requested, started_at,
           lease_expires_at, has_dependents
    FROM jobs
    WHERE state IN {from_states(JobEvent.LEASE_LOST)} AND lease_expires_at < $2
    ORDER BY lease_expires_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT orphaned.*, {count_losses("orphaned")} AS losses_before FROM orphaned
), spared AS (
    SELECT counted.*,
           attempt_limit + CASE WHEN losses_before < {LOSSES_SPARED} AND max_attempts > 1
                                THEN 1 ELSE 0 END AS new_limit
    FROM counted
), judged AS (
    SELECT spared.*,
           clock_timestamp() AS at,
           CASE WHEN cancel_requested THEN '{JobState.CANCELLED}'
                WHEN attempt < new_limit THEN '{JobState.RETRYING}'
                ELSE '{JobState.FAILED}' END::job_state AS target,
           CASE WHEN cancel_requested THEN '{JobEvent.CANCEL}'
                ELSE '{JobEvent.LEASE_LOST}' END::job_event AS event,
           jsonb_build_object('type', 'worker_lost', 'retryable', true, 'message',
               'Worker ' || spared.worker_id
               || coalesce(' (host ' || workers.host || ', process ' || workers.pid
                      || '), last heard from at '
                      || to_char(heartbeat_at AT TIME ZONE 'UTC', '{_RFC3339}') || ',', '')
               || ' stopped renewing its lease, which ran out at '
               || to_char(lease_expires_at AT TIME ZONE 'UTC', '{_RFC3339}') || '.') AS loss
    FROM spared LEFT JOIN workers ON workers.id = spared.worker_id
), rescued AS (
    UPDATE jobs
    SET state = target,
        error = CASE WHEN target = '{JobState.CANCELLED}' THEN jsonb_build_object(
                    'type', 'cancelled', 'retryable', false, 'message',
                    'The job was cancelled while it ran; its worker was lost.')
                ELSE loss END,
        attempt_limit = CASE WHEN target = '{JobState.RETRYING}' THEN new_limit
                             ELSE jobs.attempt_limit END,
        run_at = CASE WHEN target = '{JobState.RETRYING}'
                      THEN judged.at + make_interval(secs => CASE losses_before
                          WHEN 0 THEN 0 ELSE {LOST_AGAIN_DELAY_SECONDS} END)
                      ELSE jobs.run_at END,
        pointer_at = CASE WHEN $3 AND target = '{JobState.RETRYING}' AND losses_before = 0
                          THEN judged.at END,
        worker_id = NULL,
        claim_token = NULL,
        lease_expires_at = NULL,
        finished_at = CASE WHEN target IN {state_list(TERMINAL)} THEN judged.at END,
        updated_at = judged.at
    FROM judged
    WHERE jobs.id = judged.id
    RETURNING jobs.id, jobs.tenant_id, jobs.type, jobs.queue, jobs.priority, jobs.state,
              jobs.attempt, jobs.error, jobs.updated_at, jobs.pointer_at, judged.worker_id,
              judged.started_at, judged.event, judged.loss, judged.has_dependents
), history AS (
    INSERT INTO job_events
        (job_id, tenant_id, event, source, target, attempt, worker_id, detail)
    SELECT id, tenant_id, event, '{JobState.RUNNING}', state, attempt, worker_id,
           jsonb_build_object('error', error)
    FROM rescued
), ended AS (
    INSERT INTO job_attempts
        (job_id, number, tenant_id, worker_id, outcome, error, started_at, finished_at)
    SELECT id, attempt, tenant_id, worker_id, 'lost', loss, started_at, updated_at FROM rescued
), usage AS (
    {_COUNT_RESCUED}
)
SELECT id, state, type, queue, priority, attempt, worker_id, has_dependents, updated_at,
       pointer_at
FROM rescued
"""


async def database_time(connection: Connection) -> datetime:
    """What time it is where leases and deadlines are judged."""
    at: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return at


async def rescue(
    connection: Connection,
    *,
    expired_before: datetime,
    with_pointers: bool = False,
    limit: int = SLICE,
) -> list[Rescued]:
    """Take running jobs whose leases ran out before a time of the database's.

    A full slice means more. `with_pointers`: the caller publishes the `pointer` of each job that
    has one; else, and for what is to wait first, the dispatch does.
    """
    async with connection.transaction():
        rows = await connection.fetch(_RESCUE, limit, expired_before, with_pointers)
        await _resolve_dependents(connection, rows)
    return [
        Rescued(
            job_id=row["id"],
            state=JobState(row["state"]),
            type=row["type"],
            lane=Lane(row["queue"], Priority(row["priority"])),
            attempt=row["attempt"],
            worker_id=row["worker_id"],
            at=row["updated_at"],
            pointer_at=row["pointer_at"],
        )
        for row in rows
    ]


_COUNT_EXPIRED = count_changes(
    "expired", sources=sources(JobEvent.EXPIRE), targets=targets(JobEvent.EXPIRE)
)

_EXPIRE = f"""
WITH late AS MATERIALIZED (
    SELECT id, state FROM jobs
    WHERE state IN {from_states(JobEvent.EXPIRE)} AND expires_at <= now()
    ORDER BY expires_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), judged AS (
    SELECT id, state, clock_timestamp() AS at FROM late
), expired AS (
    UPDATE jobs
    SET state = '{JobState.EXPIRED}',
        error = jsonb_build_object('type', 'expired', 'retryable', false, 'message',
            'The job had not been run by its expires_at, '
            || to_char(expires_at AT TIME ZONE 'UTC', '{_RFC3339}') || '.'),
        pointer_at = NULL,
        finished_at = judged.at,
        updated_at = judged.at
    FROM judged
    WHERE jobs.id = judged.id
    RETURNING jobs.id, jobs.tenant_id, jobs.state, jobs.attempt, jobs.error,
              jobs.has_dependents, judged.state AS source
), history AS (
    INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt, detail)
    SELECT id, tenant_id, '{JobEvent.EXPIRE}', source, '{JobState.EXPIRED}', attempt,
           jsonb_build_object('error', error)
    FROM expired
), usage AS (
    {_COUNT_EXPIRED}
)
SELECT id, state, has_dependents FROM expired
"""


async def expire(connection: Connection, *, limit: int = SLICE) -> list[UUID]:
    """End waiting jobs whose `expires_at` has passed; their ids; a full slice means more."""
    async with connection.transaction():
        rows = await connection.fetch(_EXPIRE, limit)
        await _resolve_dependents(connection, rows)
    return [row["id"] for row in rows]


async def _resolve_dependents(connection: Connection, rows: Sequence[Any]) -> None:
    ended = [row["id"] for row in rows if row["has_dependents"] and row["state"] in TERMINAL]
    if ended:
        await resolve_dependents(connection, ended)


_PRUNE_IDEMPOTENCY_KEYS = f"""
WITH old AS MATERIALIZED (
    SELECT tenant_id, path, key FROM idempotency_keys
    WHERE created_at < now() - {KEY_LIFETIME}
    ORDER BY created_at LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_keys AS known USING old
WHERE (known.tenant_id, known.path, known.key) = (old.tenant_id, old.path, old.key)
RETURNING 1
"""


async def prune_idempotency_keys(connection: Connection, *, limit: int = SLICE) -> int:
    """Delete keys that no longer bind; how many. A full slice means more."""
    return len(await connection.fetch(_PRUNE_IDEMPOTENCY_KEYS, limit))


_PRUNE_WORKERS = f"""
DELETE FROM workers
WHERE heartbeat_at < now() - interval '{WORKERS_KEPT_HOURS} hours'
RETURNING 1
"""


async def prune_workers(connection: Connection) -> int:
    """Delete the rows of workers that have not been heard from for long; how many."""
    return len(await connection.fetch(_PRUNE_WORKERS))
