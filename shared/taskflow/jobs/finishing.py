"""Recording how attempts ended: one guarded statement for many, each outcome at most once."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.backoff import LADDER_TOP_SECONDS
from taskflow.jobs.dependents import resolve_dependents
from taskflow.jobs.guards import state_list
from taskflow.jobs.holding import IS_HELD
from taskflow.jobs.lanes import Lane, lane_of
from taskflow.jobs.outcomes import CANCELLED_WHILE_RUNNING, Attempt, Outcome, OutcomeKind
from taskflow.jobs.states import TERMINAL, JobEvent, JobState, targets
from taskflow.jobs.usage import count_changes
from taskflow.values import value_type


@value_type
class Recorded:
    """Where a job stands after its outcome was recorded, with what its next pointer needs."""

    job_id: UUID
    state: JobState
    type: str
    lane: Lane
    pointer_at: datetime | None
    delay_seconds: float
    recorded_at: datetime
    tenant_id: UUID
    tenant_is_held: bool
    """Whether jobs of this tenant are held, so that one may start now."""


@value_type
class Stale:
    """The outcome was refused: the job had moved on without this worker."""

    job_id: UUID


_WHILE_IT_RAN = f"'{json.dumps(CANCELLED_WHILE_RUNNING.as_dict())}'::jsonb"

_TARGET = """
    CASE kind
        WHEN 'completed' THEN 'completed'
        WHEN 'failed' THEN 'failed'
        WHEN 'cancelled' THEN 'cancelled'
        WHEN 'retryable' THEN
            CASE WHEN cancel_requested THEN 'cancelled'
                 WHEN attempt < attempt_limit THEN 'retrying'
                 ELSE 'failed' END
        WHEN 'released' THEN 'queued'
    END::job_state"""

_COUNT = count_changes(
    "finished",
    sources={JobState.RUNNING},
    targets=targets(JobEvent.SUCCEED, JobEvent.FAIL, JobEvent.CANCEL, JobEvent.RELEASE),
    kept_bytes="left_bytes",
)

_FINISH = f"""
WITH input AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::int[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::int[],
        $8::bigint[], $9::text[], $10::float8[]
    ) AS input (id, attempt, worker_id, kind, result, result_object, result_bytes, artifact_bytes,
                error, delay_seconds)
), locked AS MATERIALIZED (
    -- By their ids alone: by the worker's index each row would be looked for among all that it runs
    -- and has run since the last vacuum.
    SELECT * FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM input)) ORDER BY id FOR UPDATE
), ours AS (
    SELECT jobs.id, jobs.tenant_id, jobs.attempt, jobs.attempt_limit, jobs.worker_id,
           jobs.cancel_requested, jobs.started_at, jobs.has_dependents,
           input.result, input.result_object, input.result_bytes, input.artifact_bytes,
           input.delay_seconds,
           -- Handing back a job that is to be cancelled is cancelling it.
           CASE WHEN input.kind = 'released' AND jobs.cancel_requested
                THEN 'cancelled' ELSE input.kind END AS kind,
           CASE WHEN input.kind = 'released' AND jobs.cancel_requested
                THEN {_WHILE_IT_RAN} ELSE input.error::jsonb END AS error
    FROM locked AS jobs JOIN input
      ON jobs.id = input.id AND jobs.attempt = input.attempt AND jobs.worker_id = input.worker_id
    WHERE jobs.state = 'running'
), decided AS (
    -- One time for all that is written of it: each call would have one of its own.
    SELECT *, {_TARGET} AS target, clock_timestamp() AS at FROM ours
    -- What others wait for is finished together with them, in a transaction.
    WHERE NOT has_dependents OR $11
), finished AS (
    UPDATE jobs
    SET state = target,
        result = decided.result::jsonb,
        result_object = decided.result_object,
        result_bytes = decided.result_bytes,
        artifact_bytes = jobs.artifact_bytes + decided.artifact_bytes,
        error = CASE WHEN target = 'queued' THEN jobs.error
                     WHEN target = 'cancelled' THEN {_WHILE_IT_RAN}
                     ELSE decided.error END,
        attempt = CASE WHEN target = 'queued' THEN jobs.attempt - 1 ELSE jobs.attempt END,
        run_at = CASE WHEN target = 'retrying'
                      THEN decided.at + make_interval(secs => decided.delay_seconds)
                      ELSE jobs.run_at END,
        -- A retry's pointer counts as sent when it reaches its lane, not when it sets out.
        pointer_at = CASE
            WHEN target = 'queued' THEN decided.at
            WHEN target = 'retrying' AND decided.delay_seconds <= {LADDER_TOP_SECONDS}
            THEN decided.at + make_interval(secs => decided.delay_seconds) END,
        worker_id = NULL,
        claim_token = NULL,
        lease_expires_at = NULL,
        finished_at = CASE WHEN target IN {state_list(TERMINAL)} THEN decided.at END,
        updated_at = decided.at
    FROM decided
    WHERE jobs.id = decided.id
    RETURNING jobs.id, jobs.tenant_id, jobs.type, jobs.queue, jobs.priority, jobs.state,
              jobs.pointer_at, decided.attempt, decided.worker_id, decided.kind, decided.error,
              decided.started_at, jobs.updated_at, decided.delay_seconds,
              coalesce(jobs.result_bytes, 0) + decided.artifact_bytes AS left_bytes
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
), usage AS (
    {_COUNT}
), holding AS MATERIALIZED (
    SELECT tenant_id FROM (SELECT DISTINCT tenant_id FROM finished) AS tenant
    WHERE EXISTS (SELECT FROM jobs WHERE jobs.tenant_id = tenant.tenant_id AND {IS_HELD})
)
SELECT id, attempt, worker_id, type, queue, priority, state, pointer_at, delay_seconds, updated_at,
       tenant_id, tenant_id IN (SELECT tenant_id FROM holding) AS tenant_is_held
FROM finished
"""

# Each is looked for by itself, or all attempts would be gone through while there are few.
_WHAT_BECAME_OF = """
SELECT input.id, input.attempt, input.worker_id,
       coalesce(jobs.state = 'running' AND jobs.attempt = input.attempt
                AND jobs.worker_id = input.worker_id, false) AS still_runs,
       jobs.id IS NOT NULL AND ended.number IS NOT NULL AS recorded,
       -- A release leaves no row of the attempt behind.
       jobs.id IS NOT NULL AND released.id IS NOT NULL AS released,
       jobs.type, jobs.queue, jobs.priority, jobs.state, jobs.updated_at,
       nullif(jobs.pointer_at, 'infinity') AS pointer_at,
       jobs.tenant_id, false AS tenant_is_held,
       greatest(extract(epoch FROM jobs.run_at - clock_timestamp()), 0)::float8 AS delay_seconds
FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS input (id, attempt, worker_id)
LEFT JOIN LATERAL (SELECT * FROM jobs WHERE id = input.id LIMIT 1) AS jobs ON true
LEFT JOIN LATERAL (
    SELECT number FROM job_attempts
    WHERE job_id = input.id AND number = input.attempt AND worker_id = input.worker_id
      -- That row would be the rescue's, not ours.
      AND outcome <> 'lost'
    LIMIT 1
) AS ended ON true
LEFT JOIN LATERAL (
    SELECT id FROM job_events
    WHERE job_id = input.id AND attempt = input.attempt AND worker_id = input.worker_id
      AND event = 'release'
    LIMIT 1
) AS released ON true
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
    rows = await connection.fetch(_FINISH, *_columns(outcomes), with_dependents)
    return {Attempt(row["id"], row["attempt"], row["worker_id"]): _recorded(row) for row in rows}


def _recorded(row: Any) -> Recorded:
    return Recorded(
        job_id=row["id"],
        state=JobState(row["state"]),
        type=row["type"],
        lane=lane_of(row["queue"], row["priority"]),
        pointer_at=row["pointer_at"],
        delay_seconds=row["delay_seconds"],
        recorded_at=row["updated_at"],
        tenant_id=row["tenant_id"],
        tenant_is_held=row["tenant_is_held"],
    )


def _columns(outcomes: Sequence[tuple[Attempt, Outcome]]) -> list[list[Any]]:
    rows = [
        (
            attempt.job_id,
            attempt.number,
            attempt.worker_id,
            outcome.kind,
            outcome.result_json,
            outcome.result_object,
            outcome.result_bytes,
            outcome.artifact_bytes,
            outcome.error and json.dumps(outcome.error.as_dict()),
            outcome.delay_seconds,
        )
        for attempt, outcome in outcomes
    ]
    return [list(column) for column in zip(*rows, strict=True)]


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
        elif row["recorded"] or (row["released"] and outcome.kind is OutcomeKind.RELEASED):
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
