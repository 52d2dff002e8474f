"""What workers write: claim, renew, finish; and the rescue of what a lost worker left behind.

Statements take many jobs at once and lock their rows in the order of their ids first, since
unsorted batches deadlock with each other. Every write compares the attempt's number, the worker
and the state, never the lease's time: a stale writer changes no row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.backoff import LADDER_TOP_SECONDS
from taskflow.jobs.dependents import resolve_dependents
from taskflow.jobs.guards import from_states, state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.outcomes import Attempt, Outcome
from taskflow.jobs.states import TERMINAL, JobEvent, JobState, Priority

UNKNOWN_TYPE_DELAY_SECONDS = 5.0
"""How long a pointer waits that reached a worker which doesn't know its job's type."""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker now runs, with what its handler needs."""

    attempt: Attempt
    tenant_id: UUID
    type: str
    lane: Lane
    payload_json: str
    checkpoint_json: str | None
    timeout_seconds: float | None
    max_attempts: int
    attempt_limit: int
    created_at: datetime

    @property
    def attempts_left(self) -> int:
        """How many attempts the budget holds after this one."""
        return self.attempt_limit - self.attempt.number

    @property
    def failures_if_this_fails(self) -> int:
        """How many attempts of this budget will have failed if this one does."""
        return self.attempt.number - (self.attempt_limit - self.max_attempts)


@dataclass(frozen=True, slots=True)
class Later:
    """The pointer came before its time: it goes to a rung of the ladder."""

    job_id: UUID
    type: str
    lane: Lane
    pointer_at: datetime
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Gone:
    """There is nothing to run: another worker got there first, or the job has ended."""

    job_id: UUID


Verdict = ClaimedJob | Later | Gone

_CLAIM = f"""
WITH locked AS MATERIALIZED (
    SELECT * FROM jobs WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE
), claimed AS (
    UPDATE jobs
    SET state = 'running',
        attempt = jobs.attempt + 1,
        worker_id = $2,
        claim_token = $3,
        lease_expires_at = clock_timestamp() + make_interval(secs => $4),
        started_at = clock_timestamp(),
        finished_at = NULL,
        progress_percent = NULL,
        progress_message = NULL,
        updated_at = clock_timestamp()
    FROM locked
    WHERE jobs.id = locked.id
      AND locked.state IN {from_states(JobEvent.CLAIM)}
      AND locked.run_at <= clock_timestamp()
      AND (locked.expires_at IS NULL OR locked.expires_at > clock_timestamp())
      AND locked.attempt < locked.attempt_limit
      AND locked.type = ANY($5::text[])
    RETURNING jobs.id, jobs.tenant_id, locked.state AS source, jobs.attempt
), history AS (
    INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt, worker_id)
    SELECT id, tenant_id, 'claim', source, 'running', attempt, $2 FROM claimed
)
SELECT locked.id, locked.tenant_id, locked.type, locked.queue, locked.priority, locked.payload,
       locked.checkpoint, locked.timeout_seconds, locked.max_attempts, locked.attempt_limit,
       locked.created_at, locked.pointer_at,
       coalesce(claimed.attempt, locked.attempt) AS attempt,
       -- A second claim with the same token: the first one's answer was lost.
       claimed.id IS NOT NULL OR (locked.state = 'running' AND locked.claim_token = $3) AS runs,
       locked.state IN {from_states(JobEvent.CLAIM)}
           AND (locked.expires_at IS NULL OR locked.expires_at > clock_timestamp()) AS waits,
       extract(epoch FROM locked.run_at - clock_timestamp())::float8 AS seconds_to_run_at
FROM locked LEFT JOIN claimed ON claimed.id = locked.id
"""


async def claim(
    connection: Connection,
    job_ids: Sequence[UUID],
    *,
    worker_id: UUID,
    claim_token: UUID,
    lease_seconds: float,
    job_types: Sequence[str],
) -> list[Verdict]:
    """Take what of `job_ids` may run now: a verdict for each, in their order.

    After an error whose outcome is unknown the same call with the same `claim_token` finds again
    what the first one took.
    """
    rows = await connection.fetch(_CLAIM, job_ids, worker_id, claim_token, lease_seconds, job_types)
    verdicts = {row["id"]: _verdict(row, worker_id) for row in rows}
    return [verdicts.get(job_id, Gone(job_id)) for job_id in job_ids]


def _verdict(row: Any, worker_id: UUID) -> Verdict:
    lane = Lane(row["queue"], Priority(row["priority"]))
    if row["runs"]:
        return ClaimedJob(
            attempt=Attempt(row["id"], row["attempt"], worker_id),
            tenant_id=row["tenant_id"],
            type=row["type"],
            lane=lane,
            payload_json=row["payload"],
            checkpoint_json=row["checkpoint"],
            timeout_seconds=row["timeout_seconds"],
            max_attempts=row["max_attempts"],
            attempt_limit=row["attempt_limit"],
            created_at=row["created_at"],
        )
    # Without a stamp the scheduler will publish the job itself; this pointer can go.
    if row["waits"] and row["pointer_at"] is not None:
        early = row["seconds_to_run_at"]
        delay = early if early > 0 else UNKNOWN_TYPE_DELAY_SECONDS
        return Later(row["id"], row["type"], lane, row["pointer_at"], delay)
    return Gone(row["id"])


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that was renewed."""

    job_id: UUID
    attempt_number: int
    cancel_requested: bool


# Also handed to the heartbeat process, which knows no SQL of its own.
RENEW = """
WITH locked AS MATERIALIZED (
    SELECT jobs.id
    FROM jobs JOIN unnest($1::uuid[], $2::int[]) AS held (id, attempt)
      ON jobs.id = held.id AND jobs.attempt = held.attempt
    WHERE jobs.state = 'running' AND jobs.worker_id = $3
    ORDER BY jobs.id
    FOR UPDATE OF jobs
)
UPDATE jobs
SET lease_expires_at = clock_timestamp() + make_interval(secs => $4)
FROM locked
WHERE jobs.id = locked.id
RETURNING jobs.id, jobs.attempt, jobs.cancel_requested
"""


async def renew(
    connection: Connection,
    held: Sequence[tuple[UUID, int]],
    *,
    worker_id: UUID,
    lease_seconds: float,
) -> list[Held]:
    """Prolong the leases of exactly these (job id, attempt number) pairs.

    A pair that is missing from the answer is lost: the job has moved on without this worker.
    """
    rows = await connection.fetch(
        RENEW,
        [job_id for job_id, _ in held],
        [number for _, number in held],
        worker_id,
        lease_seconds,
    )
    return [Held(row["id"], row["attempt"], row["cancel_requested"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where a job stands after its outcome was recorded, with what its next pointer needs."""

    job_id: UUID
    state: JobState
    type: str
    lane: Lane
    pointer_at: datetime | None
    delay_seconds: float
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Stale:
    """The outcome was refused: the job had moved on without this worker."""

    job_id: UUID


_TARGET = """
    CASE kind
        WHEN 'completed' THEN 'completed'
        WHEN 'failed' THEN 'failed'
        WHEN 'cancelled' THEN 'cancelled'
        WHEN 'retryable' THEN
            CASE WHEN cancel_requested THEN 'cancelled'
                 WHEN attempt < attempt_limit THEN 'retrying'
                 ELSE 'failed' END
        WHEN 'released' THEN
            CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END
    END::job_state"""

_FINISH = f"""
WITH input AS (
    SELECT * FROM json_to_recordset($1::json) AS input (
        id uuid, attempt int, worker_id uuid, kind text,
        result text, result_object text, error jsonb, delay_seconds float8)
), locked AS MATERIALIZED (
    SELECT jobs.id, jobs.tenant_id, jobs.attempt, jobs.attempt_limit, jobs.worker_id,
           jobs.cancel_requested, jobs.started_at, jobs.has_dependents,
           input.kind, input.result, input.result_object, input.error, input.delay_seconds
    FROM jobs JOIN input
      ON jobs.id = input.id AND jobs.attempt = input.attempt AND jobs.worker_id = input.worker_id
    WHERE jobs.state = 'running'
    ORDER BY jobs.id
    FOR UPDATE OF jobs
), decided AS (
    SELECT *, {_TARGET} AS target FROM locked
    -- What others wait for is finished together with them, in a transaction.
    WHERE NOT has_dependents OR $2
), finished AS (
    UPDATE jobs
    SET state = target,
        result = decided.result::jsonb,
        result_object = decided.result_object,
        error = CASE WHEN kind = 'released' AND target = 'queued' THEN jobs.error
                     ELSE decided.error END,
        attempt = CASE WHEN target = 'queued' THEN jobs.attempt - 1 ELSE jobs.attempt END,
        run_at = CASE WHEN target = 'retrying'
                      THEN clock_timestamp() + make_interval(secs => decided.delay_seconds)
                      ELSE jobs.run_at END,
        -- A retry's pointer counts as sent when it reaches its lane, not when it sets out.
        pointer_at = CASE
            WHEN target = 'queued' THEN clock_timestamp()
            WHEN target = 'retrying' AND decided.delay_seconds <= {LADDER_TOP_SECONDS}
            THEN clock_timestamp() + make_interval(secs => decided.delay_seconds) END,
        worker_id = NULL,
        claim_token = NULL,
        lease_expires_at = NULL,
        finished_at = CASE WHEN target IN {state_list(TERMINAL)} THEN clock_timestamp() END,
        updated_at = clock_timestamp()
    FROM decided
    WHERE jobs.id = decided.id
    RETURNING jobs.id, jobs.tenant_id, jobs.type, jobs.queue, jobs.priority, jobs.state,
              jobs.pointer_at, decided.attempt, decided.worker_id, decided.kind, decided.error,
              decided.started_at, jobs.updated_at, decided.delay_seconds
), history AS (
    INSERT INTO job_events
        (job_id, tenant_id, event, source, target, attempt, worker_id, detail)
    SELECT id, tenant_id,
           CASE WHEN state = 'completed' THEN 'succeed'
                WHEN state = 'cancelled' THEN 'cancel'
                WHEN state = 'queued' THEN 'release'
                ELSE 'fail' END::job_event,
           'running', state, attempt, worker_id,
           CASE WHEN error IS NOT NULL THEN jsonb_build_object('error', error) END
    FROM finished
), ended AS (
    INSERT INTO job_attempts
        (job_id, number, tenant_id, worker_id, outcome, error, started_at, finished_at)
    SELECT id, attempt, tenant_id, worker_id, kind, error, started_at, updated_at
    FROM finished WHERE state <> 'queued'
)
SELECT id, attempt, worker_id, type, queue, priority, state, pointer_at, delay_seconds, updated_at
FROM finished
"""

_WHAT_BECAME_OF = """
SELECT input.id, input.attempt, input.worker_id,
       coalesce(jobs.state = 'running' AND jobs.attempt = input.attempt
                AND jobs.worker_id = input.worker_id, false) AS still_runs,
       jobs.id IS NOT NULL AND job_attempts.number IS NOT NULL AS recorded,
       jobs.type, jobs.queue, jobs.priority, jobs.state, jobs.pointer_at, jobs.updated_at,
       greatest(extract(epoch FROM jobs.run_at - clock_timestamp()), 0)::float8 AS delay_seconds
FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS input (id, attempt, worker_id)
LEFT JOIN jobs ON jobs.id = input.id
LEFT JOIN job_attempts
  ON job_attempts.job_id = input.id AND job_attempts.number = input.attempt
 AND job_attempts.worker_id = input.worker_id
 -- That row would be the rescue's, not ours.
 AND job_attempts.outcome <> 'lost'
"""


async def finish(
    connection: Connection, outcomes: Sequence[tuple[Attempt, Outcome]]
) -> list[Recorded | Stale]:
    """Record how attempts ended, each at most once: an answer for each, in their order.

    The same call again after a lost answer records nothing twice, and answers `Recorded` again.

    Raises:
        asyncpg.DataError: a row holds what PostgreSQL can't store; nothing was recorded.
    """
    found = await _record(connection, outcomes, with_dependents=False)
    missing = [(attempt, outcome) for attempt, outcome in outcomes if attempt not in found]
    if missing:
        found |= await _explain_missing(connection, missing)
    return [found[attempt] for attempt, _ in outcomes]


async def _record(
    connection: Connection,
    outcomes: Sequence[tuple[Attempt, Outcome]],
    *,
    with_dependents: bool,
) -> dict[Attempt, Recorded | Stale]:
    rows = await connection.fetch(_FINISH, _as_json(outcomes), with_dependents)
    return {Attempt(row["id"], row["attempt"], row["worker_id"]): _recorded(row) for row in rows}


def _recorded(row: Any) -> Recorded:
    return Recorded(
        job_id=row["id"],
        state=JobState(row["state"]),
        type=row["type"],
        lane=Lane(row["queue"], Priority(row["priority"])),
        pointer_at=row["pointer_at"],
        delay_seconds=row["delay_seconds"],
        recorded_at=row["updated_at"],
    )


def _as_json(outcomes: Sequence[tuple[Attempt, Outcome]]) -> str:
    return json.dumps(
        [
            {
                "id": str(attempt.job_id),
                "attempt": attempt.number,
                "worker_id": str(attempt.worker_id),
                "kind": outcome.kind,
                "result": outcome.result_json,
                "result_object": outcome.result_object,
                "error": outcome.error and outcome.error.as_dict(),
                "delay_seconds": outcome.delay_seconds,
            }
            for attempt, outcome in outcomes
        ]
    )


async def _explain_missing(
    connection: Connection, outcomes: Sequence[tuple[Attempt, Outcome]]
) -> dict[Attempt, Recorded | Stale]:
    """Tell apart: others wait for it; it was our own commit; the job moved on without us."""
    rows = await connection.fetch(
        _WHAT_BECAME_OF,
        [attempt.job_id for attempt, _ in outcomes],
        [attempt.number for attempt, _ in outcomes],
        [attempt.worker_id for attempt, _ in outcomes],
    )
    by_attempt = {Attempt(row["id"], row["attempt"], row["worker_id"]): row for row in rows}
    found: dict[Attempt, Recorded | Stale] = {}
    for attempt, outcome in outcomes:
        row = by_attempt[attempt]
        if row["still_runs"]:
            found[attempt] = await _finish_with_dependents(connection, attempt, outcome)
        elif row["recorded"]:
            found[attempt] = _recorded(row)
        else:
            found[attempt] = Stale(attempt.job_id)
    return found


async def _finish_with_dependents(
    connection: Connection, attempt: Attempt, outcome: Outcome
) -> Recorded | Stale:
    async with connection.transaction():
        found = await _record(connection, [(attempt, outcome)], with_dependents=True)
        recorded = found.get(attempt, Stale(attempt.job_id))
        if isinstance(recorded, Recorded) and recorded.state in TERMINAL:
            await resolve_dependents(connection, [attempt.job_id])
    return recorded
