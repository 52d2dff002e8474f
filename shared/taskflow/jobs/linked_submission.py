"""Submitting jobs about which others' rows decide: a twin with their `unique_key`, their parents.

Many of one tenant go in one transaction, each accepted or refused by itself. All take what they
wait for in one order, so that two of them don't wait for each other: the tenant's turn, the parents
by id, idempotency keys, unique keys. Others have orders of their own, like the end of a job that
takes all its descendants along. So these transactions wait for each row less long than PostgreSQL
takes to find out about a deadlock, and give way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg

from taskflow.db.pool import Connection
from taskflow.errors import InvalidContent, ParentNotFound, ServiceUnavailable, TaskFlowError
from taskflow.jobs.guards import state_list
from taskflow.jobs.halving import Halving
from taskflow.jobs.new_job import NewJob, Submission, SubmissionKind
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.room import NO_QUOTAS, Room, rooms_in_turn
from taskflow.jobs.states import LIVE, TERMINAL, JobState
from taskflow.jobs.submission import (
    Writing,
    first_of_each_key,
    quota_refusals,
    refused_by_postgres,
)
from taskflow.jobs.submission_answers import KEY_LIFETIME, Answer, find_answers

# The limit keeps the planner from reading all that the tenant has alive. Arrays are selected, or it
# would see how many they hold, and plan each batch anew.
_LIVE_TWINS = f"""
SELECT asked.unique_key, twin.* FROM unnest((SELECT $2::text[])) AS asked (unique_key)
CROSS JOIN LATERAL (
    SELECT id, state, created_at FROM jobs
    WHERE tenant_id = $1 AND unique_key = asked.unique_key AND state IN {state_list(LIVE)}
    LIMIT 1
) AS twin
"""

# The parents' rows stay locked until the children are committed, so none of them ends unseen. They
# are locked in the order of the ids, each found by its own: joined, they would be looked for among
# all that the tenant has, where the planner doesn't know yet how many these are.
_LOCK_PARENTS = """
SELECT parent.* FROM unnest((SELECT $2::uuid[])) AS asked (id)
CROSS JOIN LATERAL (
    SELECT id, state, has_dependents FROM jobs WHERE tenant_id = $1 AND id = asked.id
    LIMIT 1 FOR UPDATE
) AS parent
"""

_HAVE_DEPENDENTS = "UPDATE jobs SET has_dependents = true WHERE id = ANY($1::uuid[])"

_REMEMBER_TWINS = f"""
INSERT INTO idempotency_keys AS known
    (tenant_id, path, key, fingerprint, job_id, state, deduplicated)
SELECT $1, path, key, fingerprint, job_id, state, true
FROM unnest($2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::text[]::job_state[])
     AS told (path, key, fingerprint, job_id, state)
ORDER BY path, key
ON CONFLICT (tenant_id, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, state = excluded.state,
    deduplicated = true, created_at = excluded.created_at
WHERE known.created_at < now() - {KEY_LIFETIME}
RETURNING path, key
"""


# Shorter than `deadlock_timeout`.
_BE_PATIENT = "SET LOCAL lock_timeout = '500ms'"
# For many at once, after a first wait: while the one that has to wait is looked for.
_BE_BRISK = "SET LOCAL lock_timeout = '100ms'"


class _TurnNeeded(TaskFlowError):
    """The tenant is near a quota; what the transaction has written is to be undone."""


async def submit_linked(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    answers: dict[UUID, Answer],
    *,
    with_pointers: bool,
    quotas: DefaultQuotas = NO_QUOTAS,
) -> None:
    """Insert jobs of one tenant; an answer for each into `answers`, as soon as it is committed.

    A refusal is an answer too, and so is ServiceUnavailable where others hold for too long what a
    job is linked to. Of those with one `unique_key` the first that isn't refused is accepted, if
    none is alive. What has an answer is left alone.

    Raises:
        Exception: one of `db.pool.TRANSIENT_ERRORS`; the same call may be made again.
    """
    writing = Writing(connection, with_pointers, quotas, in_turn=False, by_unique_key=True)
    halving = Halving(len(new_jobs))
    while pending := [job for job in new_jobs if job.id not in answers]:
        part = pending[: halving.at_once]
        try:
            async with connection.transaction():
                said = await _answer_some(writing, part, brisk=halving.is_brisk(len(part)))
        except _TurnNeeded:
            writing = replace(writing, in_turn=True)
            continue
        except asyncpg.UniqueViolationError:
            # A twin was committed since the look for it: the next look finds it, unless it has
            # ended by then.
            continue
        except asyncpg.LockNotAvailableError:
            if halving.goes_on_after_wait(len(part)):
                continue
            said = dict.fromkeys((job.id for job in part), _held_up())
            halving.note_found()
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if halving.goes_on_by_halves(len(part)):
                continue
            said = {part[0].id: refused_by_postgres(error)}
            halving.note_found()
        answers |= said
        halving.note_answered(len(said))


def _held_up() -> ServiceUnavailable:
    return ServiceUnavailable("PostgreSQL", "others hold what the job is linked to")


async def _answer_some(
    writing: Writing, jobs: Sequence[NewJob], *, brisk: bool
) -> dict[UUID, Answer]:
    """The answers of those that were there before, or else of some that are tried now.

    Not of both: their idempotency keys would be taken in two runs, and so not in one order.
    """
    connection = writing.connection
    rooms: Mapping[UUID, Room] = {}
    if writing.in_turn:
        rooms = await rooms_in_turn(connection, {job.tenant_id for job in jobs}, writing.quotas)
    await connection.execute(_BE_BRISK if brisk else _BE_PATIENT)
    before = await find_answers(connection, jobs)
    new = first_of_each_key(job for job in jobs if job.id not in before)
    if twins := await _live_twins(connection, new):
        return before | await _answer_with_twins(connection, new, twins)
    if before:
        return before
    return await _accept(writing, _first_of_each_unique_key(new), rooms)


def _first_of_each_unique_key(jobs: Iterable[NewJob]) -> list[NewJob]:
    firsts: dict[str | UUID, NewJob] = {}
    for job in jobs:
        firsts.setdefault(job.id if job.unique_key is None else job.unique_key, job)
    return list(firsts.values())


async def _live_twins(connection: Connection, jobs: Sequence[NewJob]) -> dict[str, Submission]:
    """What a job with such a `unique_key` is answered with, where another one is alive."""
    own = {job.id for job in jobs}
    wanted = {job.unique_key for job in jobs} - {None}
    if not wanted:
        return {}
    rows = await connection.fetch(_LIVE_TWINS, jobs[0].tenant_id, list(wanted))
    return {
        row["unique_key"]: Submission(
            SubmissionKind.DEDUPLICATED, row["id"], JobState(row["state"]), row["created_at"]
        )
        for row in rows
        # One of these is a commit in doubt that has arrived since the look for answers.
        if row["id"] not in own
    }


async def _answer_with_twins(
    connection: Connection, jobs: Sequence[NewJob], twins: Mapping[str, Submission]
) -> dict[UUID, Answer]:
    """The answers of those that have one alive, as their idempotency keys will repeat them.

    Another request with the key may have come first: then there is none yet, and the next look
    finds whose the key is.
    """
    twin_of = {
        job.id: twins[job.unique_key]
        for job in jobs
        if job.unique_key is not None and job.unique_key in twins
    }
    keys = [
        (job.idempotency, twin_of[job.id])
        for job in jobs
        if job.idempotency is not None and job.id in twin_of
    ]
    remembered = set()
    if keys:
        rows = await connection.fetch(
            _REMEMBER_TWINS,
            jobs[0].tenant_id,
            [key.path for key, _ in keys],
            [key.key for key, _ in keys],
            [key.fingerprint for key, _ in keys],
            [twin.job_id for _, twin in keys],
            [twin.state for _, twin in keys],
        )
        remembered = {(row["path"], row["key"]) for row in rows}
    return {
        job.id: twin_of[job.id]
        for job in jobs
        if job.id in twin_of
        and (job.idempotency is None or (job.idempotency.path, job.idempotency.key) in remembered)
    }


async def _accept(
    writing: Writing, jobs: Sequence[NewJob], rooms: Mapping[UUID, Room]
) -> dict[UUID, Answer]:
    connection = writing.connection
    parents = await _lock_parents(connection, jobs)
    states = {parent["id"]: JobState(parent["state"]) for parent in parents}
    refusals = ((job.id, _parent_refusal(job, states)) for job in jobs)
    answers: dict[UUID, Answer] = {job_id: said for job_id, said in refusals if said is not None}
    # Only of what else would be accepted: what is refused takes no room.
    answers |= quota_refusals([job for job in jobs if job.id not in answers], rooms)
    admitted = [job for job in jobs if job.id not in answers]
    if not admitted:
        return answers
    wanted = {parent for job in admitted for parent in job.depends_on}
    first = [each["id"] for each in parents if each["id"] in wanted and not each["has_dependents"]]
    if first:
        await connection.execute(_HAVE_DEPENDENTS, first)
    blocked = {
        job.id
        for job in admitted
        if any(states[parent] is not JobState.COMPLETED for parent in job.depends_on)
    }
    written = await writing.write(admitted, blocked=blocked)
    # Another request with the key of one that is left out has committed since the first look.
    left_out = [job for job in admitted if job.id not in written]
    found = await find_answers(connection, left_out)
    if len(found) < len(left_out):
        raise _TurnNeeded
    return answers | written | found


async def _lock_parents(connection: Connection, jobs: Sequence[NewJob]) -> Sequence[Any]:
    """Those of the jobs' parents that are there: id, state, has_dependents."""
    parents = {parent for job in jobs for parent in job.depends_on}
    if not parents:
        return []
    return await connection.fetch(_LOCK_PARENTS, jobs[0].tenant_id, sorted(parents))


def _parent_refusal(job: NewJob, states: Mapping[UUID, JobState]) -> InvalidContent | None:
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
