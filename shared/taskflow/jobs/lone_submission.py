"""Submitting a job that has a `unique_key` or waits for others: alone, in one transaction."""

from dataclasses import replace
from uuid import UUID

import asyncpg

from taskflow.db.pool import Connection
from taskflow.errors import InvalidContent, ParentNotFound, TaskFlowError
from taskflow.jobs.guards import state_list
from taskflow.jobs.new_job import NewJob, Submission, SubmissionKind
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.room import NO_QUOTAS, Room, rooms_in_turn
from taskflow.jobs.states import LIVE, TERMINAL, JobState
from taskflow.jobs.submission import Writing, quota_refusals, refused_by_postgres
from taskflow.jobs.submission_answers import KEY_LIFETIME, Answer, find_answer, find_answers

_LIVE_TWIN = f"""
SELECT id, state, created_at, run_at, expires_at, NULL AS pointer_at FROM jobs
WHERE tenant_id = $1 AND unique_key = $2 AND state IN {state_list(LIVE)}
"""

# The parents' rows stay locked until the child is committed, so none of them ends unseen.
_LOCK_PARENTS = """
SELECT id, state FROM jobs WHERE tenant_id = $1 AND id = ANY($2::uuid[]) ORDER BY id FOR UPDATE
"""

_REMEMBER_TWIN = f"""
INSERT INTO idempotency_keys AS known
    (tenant_id, path, key, fingerprint, job_id, state, deduplicated)
VALUES ($1, $2, $3, $4, $5, $6, true)
ON CONFLICT (tenant_id, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, state = excluded.state,
    deduplicated = true, created_at = excluded.created_at
WHERE known.created_at < now() - {KEY_LIFETIME}
RETURNING job_id
"""


class _TurnNeeded(TaskFlowError):
    """The tenant is near a quota; what the transaction has written is to be undone."""


async def submit_alone(
    connection: Connection, job: NewJob, *, with_pointers: bool, quotas: DefaultQuotas = NO_QUOTAS
) -> Answer:
    """Insert a job that has a `unique_key` or waits for others, in a transaction of its own.

    Raises:
        Exception: one of `db.pool.TRANSIENT_ERRORS`; the same call may be made again.
    """
    writing = Writing(connection, with_pointers, quotas, in_turn=False)
    # A twin that ends between the conflict and the look at it leaves nothing to return: again.
    while True:
        try:
            async with connection.transaction():
                return await _submit_alone(writing, job)
        except _TurnNeeded:
            writing = replace(writing, in_turn=True)
        except asyncpg.UniqueViolationError:
            async with connection.transaction():
                twin = await _answer_with_twin(connection, job)
            if twin is not None:
                return twin
        except asyncpg.DataError as error:
            return refused_by_postgres(error)


async def _submit_alone(writing: Writing, job: NewJob) -> Answer:
    connection = writing.connection
    rooms: dict[UUID, Room] = {}
    if writing.in_turn:
        rooms = await rooms_in_turn(connection, [job.tenant_id], writing.quotas)
    known = (await find_answers(connection, [job])).get(job.id)
    if known is not None:
        return known
    twin = await _answer_with_twin(connection, job)
    if twin is not None:
        return twin
    if refused := quota_refusals([job], rooms):
        return refused[job.id]
    blocked = False
    if job.depends_on:
        rows = await connection.fetch(_LOCK_PARENTS, job.tenant_id, sorted(set(job.depends_on)))
        states = {row["id"]: JobState(row["state"]) for row in rows}
        refusal = _parent_refusal(job, states)
        if refusal is not None:
            return refusal
        blocked = any(state is not JobState.COMPLETED for state in states.values())
        await connection.execute(
            "UPDATE jobs SET has_dependents = true WHERE id = ANY($1::uuid[])"
            " AND NOT has_dependents",
            list(states),
        )
    answers = await writing.write([job], blocked=blocked)
    # Else another request with this key has committed since the first look.
    answers = answers or await find_answers(connection, [job])
    if not answers:
        raise _TurnNeeded
    return answers[job.id]


def _parent_refusal(job: NewJob, states: dict[UUID, JobState]) -> InvalidContent | None:
    missing = [(i, parent) for i, parent in enumerate(job.depends_on) if parent not in states]
    if missing:
        return ParentNotFound(missing)
    bad = TERMINAL - {JobState.COMPLETED}
    problems = [
        (f"/depends_on/{i}", f"The job {parent} has {states[parent]} already.")
        for i, parent in enumerate(job.depends_on)
        if states[parent] in bad
    ]
    if problems:
        return InvalidContent("depends_on names jobs that will not complete.", problems)
    return None


async def _answer_with_twin(connection: Connection, job: NewJob) -> Answer | None:
    if job.unique_key is None:
        return None
    twin = await connection.fetchrow(_LIVE_TWIN, job.tenant_id, job.unique_key)
    if twin is None:
        return None
    if job.idempotency is not None:
        remembered = await connection.fetchval(
            _REMEMBER_TWIN,
            job.tenant_id,
            job.idempotency.path,
            job.idempotency.key,
            job.idempotency.fingerprint,
            twin["id"],
            twin["state"],
        )
        known = None if remembered else await find_answer(connection, job)
        if known is not None:
            # The twin came from this very key, since the look that didn't find it yet.
            return known
    state = JobState(twin["state"])
    return Submission(SubmissionKind.DEDUPLICATED, twin["id"], state, twin["created_at"])
