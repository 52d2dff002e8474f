"""Submitting jobs, many in one statement: job, idempotency key and event, all or nothing.

Ids come from this side, so a batch whose answer was lost is sent again as it was and makes no
job twice. Equal keys meet in the primary key of `idempotency_keys`: the later one waits for the
earlier one's commit and then reads whose it is.

Tenants that are far from their quotas are judged in that statement. Others take turns (`room`), and
what finds no room is looked for among what was accepted before, so that no replay is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg
from pydantic_core import to_json

from taskflow.db.pool import Connection
from taskflow.errors import (
    IdempotencyKeyReused,
    InvalidContent,
    ParentNotFound,
    TaskFlowError,
)
from taskflow.jobs.guards import state_list
from taskflow.jobs.new_job import FilledIn, NewJob, Submission, SubmissionKind
from taskflow.jobs.quotas import DefaultQuotas, attributes_size, judge, payload_size
from taskflow.jobs.room import NO_QUOTAS, Room, far_tenants, rooms_in_turn
from taskflow.jobs.states import LIVE, TERMINAL, JobEvent, JobState, targets
from taskflow.jobs.usage import KEPT_OF_NEW_JOB, count_changes

KEY_LIFETIME = "interval '24 hours'"


Answer = Submission | TaskFlowError

_INPUT_COLUMNS = """
    id uuid, tenant_id uuid, type text, queue text, priority job_priority, payload jsonb,
    payload_bytes int, attribute_bytes int,
    name text, description text, tags text[], metadata jsonb, unique_key text, depends_on uuid[],
    run_at timestamptz, delay_seconds float8, expires_at timestamptz, ttl_seconds float8,
    timeout_seconds float8, max_attempts int, path text, key text, fingerprint text,
    blocked boolean"""

# What is judged already ($3) is not looked at again.
_FAR = far_tenants("asked", jobs="$4::bigint", kept="$5::bigint", registered_kept="$6::bigint")

_COUNT = count_changes("accepted", targets=targets(JobEvent.SUBMIT), kept_bytes=KEPT_OF_NEW_JOB)

_SUBMIT = f"""
WITH input AS (
    SELECT *,
           coalesce(run_at, now() + make_interval(secs => delay_seconds), now()) AS due_at,
           coalesce(expires_at, now() + make_interval(secs => ttl_seconds)) AS ends_at
    FROM json_to_recordset($1::json) AS input ({_INPUT_COLUMNS})
), placed AS (
    SELECT *, CASE WHEN blocked THEN 'blocked'
                   WHEN due_at > now() THEN 'scheduled'
                   ELSE 'queued' END::job_state AS state
    FROM input
), asked AS (
    SELECT tenant_id, count(*) AS jobs, sum({KEPT_OF_NEW_JOB}) AS kept_bytes
    FROM placed GROUP BY tenant_id
), far AS ({_FAR}
), admitted AS (
    SELECT * FROM placed WHERE $3 OR tenant_id IN (SELECT tenant_id FROM far)
), keys AS (
    INSERT INTO idempotency_keys AS known (tenant_id, path, key, fingerprint, job_id, state)
    SELECT tenant_id, path, key, decode(fingerprint, 'hex'), id, state
    FROM admitted WHERE key IS NOT NULL ORDER BY tenant_id, path, key
    ON CONFLICT (tenant_id, path, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, job_id = excluded.job_id, state = excluded.state,
        deduplicated = false, created_at = excluded.created_at
    WHERE known.created_at < now() - {KEY_LIFETIME}
    RETURNING job_id
), accepted AS (
    INSERT INTO jobs
        (id, tenant_id, type, queue, priority, state, payload, payload_bytes, attribute_bytes,
         name, description, tags, metadata, unique_key, depends_on, run_at, expires_at,
         timeout_seconds, max_attempts, attempt_limit, pointer_at)
    SELECT id, tenant_id, type, queue, priority, state, payload, payload_bytes, attribute_bytes,
           name, description, tags, metadata, unique_key, depends_on, due_at, ends_at,
           timeout_seconds, max_attempts, max_attempts,
           CASE WHEN $2 AND state = 'queued' THEN now() END
    FROM admitted
    WHERE key IS NULL OR id IN (SELECT job_id FROM keys)
    ON CONFLICT (id) DO NOTHING
    RETURNING id, tenant_id, state, created_at, run_at, expires_at, pointer_at, payload_bytes,
              attribute_bytes
), history AS (
    INSERT INTO job_events (job_id, tenant_id, event, target, attempt)
    SELECT id, tenant_id, 'submit', state, 0 FROM accepted
), usage AS ({_COUNT}
)
SELECT * FROM accepted
"""

# A job of our own may have been run since its commit, whose answer was lost; the answer is still
# that to a submission, in the state of then. The limits keep the joins apart, so that each row is
# looked for by its key: joined by hash, a batch would read all that its tenant ever had.
_FIND = f"""
SELECT input.id AS own_id, own.id, submitted.target AS state, own.created_at, own.run_at,
       own.expires_at, nullif(own.pointer_at, 'infinity') AS pointer_at,
       known.job_id AS key_job_id, known.fingerprint,
       known.state AS key_state, known.deduplicated, known.created_at AS key_created_at,
       first.queue, first.max_attempts, first.timeout_seconds
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) AS input (id, tenant_id, path, key)
LEFT JOIN LATERAL (
    SELECT fingerprint, job_id, state, deduplicated, created_at FROM idempotency_keys
    WHERE tenant_id = input.tenant_id AND path = input.path AND key = input.key
      AND created_at >= now() - {KEY_LIFETIME}
    LIMIT 1
) AS known ON true
LEFT JOIN LATERAL (
    SELECT id, created_at, run_at, expires_at, pointer_at FROM jobs WHERE id = input.id LIMIT 1
) AS own ON true
LEFT JOIN LATERAL (
    SELECT target FROM job_events WHERE job_id = own.id AND event = 'submit' LIMIT 1
) AS submitted ON true
LEFT JOIN LATERAL (
    SELECT queue, max_attempts, timeout_seconds FROM jobs WHERE id = known.job_id LIMIT 1
) AS first ON true
"""


async def submit(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    *,
    with_pointers: bool,
    quotas: DefaultQuotas = NO_QUOTAS,
) -> list[Answer]:
    """Insert jobs: an answer for each, in their order; a refusal is an answer too.

    `with_pointers`: the caller publishes what comes back with a `pointer_at`; else the scheduler
    is left to do it. `quotas` are those of tenants that have none of their own. Jobs that
    `needs_own_transaction` go through `submit_alone` instead.

    Raises:
        Exception: one of `db.pool.TRANSIENT_ERRORS`; the same call may be made again.
    """
    answers: dict[UUID, Answer] = {}
    pending = list(new_jobs)
    in_turn = False
    while pending:
        writing = Writing(connection, with_pointers, quotas, in_turn=in_turn)
        answers |= await writing.insert(_first_of_each_key(pending))
        # Not answered: the key belongs to another request, the answer to our commit was lost, or
        # the tenant is near a quota.
        unanswered = [job for job in pending if job.id not in answers]
        answers |= await find_answers(connection, unanswered)
        # Still not: near a quota; or the key's first request was refused, so that the next one
        # takes its place.
        pending = [job for job in unanswered if job.id not in answers]
        in_turn = True
    return [answers[job.id] for job in new_jobs]


def _first_of_each_key(jobs: Iterable[NewJob]) -> list[NewJob]:
    """One statement can't meet its own rows in a conflict, so equal keys go one by one."""
    seen: set[tuple[UUID, str, str]] = set()
    firsts = []
    for job in jobs:
        if job.idempotency is not None:
            name = (job.tenant_id, job.idempotency.path, job.idempotency.key)
            if name in seen:
                continue
            seen.add(name)
        firsts.append(job)
    return firsts


@dataclass(frozen=True, slots=True)
class Writing:
    """How a batch is inserted; `in_turn`: its tenants' quotas are judged with nobody beside."""

    connection: Connection
    with_pointers: bool
    quotas: DefaultQuotas
    in_turn: bool

    async def insert(self, batch: Sequence[NewJob]) -> dict[UUID, Answer]:
        """The answers; a row that PostgreSQL refuses is found by halving and refused alone."""
        try:
            if not self.in_turn:
                return await self.write(batch)
            async with self.connection.transaction():
                return await self._write_in_turn(batch)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(batch) == 1:
                return {batch[0].id: _refused(error)}
            middle = len(batch) // 2
            return await self.insert(batch[:middle]) | await self.insert(batch[middle:])

    async def write(self, batch: Sequence[NewJob], *, blocked: bool = False) -> dict[UUID, Answer]:
        """The hot statement; it leaves out tenants that are near a quota unless it is our turn."""
        rows = await self.connection.fetch(
            _SUBMIT,
            _as_json(batch, blocked=blocked),
            self.with_pointers,
            self.in_turn,
            self.quotas.waiting_jobs,
            self.quotas.kept_bytes,
            self.quotas.registered_kept_bytes,
        )
        return {row["id"]: _accepted(row) for row in rows}

    async def _write_in_turn(self, batch: Sequence[NewJob]) -> dict[UUID, Answer]:
        tenants = {job.tenant_id for job in batch}
        rooms = await rooms_in_turn(self.connection, tenants, self.quotas)
        # What came before us is committed by now.
        found = await find_answers(self.connection, batch)
        new = [job for job in batch if job.id not in found]
        refused = quota_refusals(new, rooms)
        admitted = [job for job in new if job.id not in refused]
        written = await self.write(admitted) if admitted else {}
        return found | refused | written


def quota_refusals(batch: Sequence[NewJob], rooms: Mapping[UUID, Room]) -> dict[UUID, Answer]:
    """The answers of those for which their tenant has no room beside the ones before them."""
    refused: dict[UUID, Answer] = {}
    for tenant_id, room in rooms.items():
        own = [job for job in batch if job.tenant_id == tenant_id]
        sizes = (payload_size(job.payload) + _attributes_size(job) for job in own)
        judged = judge(room.quotas, room.usage, sizes)
        refused |= {
            job.id: refusal for job, refusal in zip(own, judged, strict=True) if refusal is not None
        }
    return refused


async def find_answer(connection: Connection, job: NewJob) -> Answer | None:
    """What a job's idempotency key has been answered with, or None; nothing is written.

    A request that would be refused by now, for its times or its type's new schema, is still the
    one that was accepted then.
    """
    return (await find_answers(connection, [job])).get(job.id)


async def find_answers(connection: Connection, jobs: Sequence[NewJob]) -> dict[UUID, Answer]:
    """As `find_answer`, for each of these jobs, by its id, that has one; at one look."""
    if not jobs:
        return {}
    rows = await connection.fetch(
        _FIND,
        [job.id for job in jobs],
        [job.tenant_id for job in jobs],
        [job.idempotency and job.idempotency.path for job in jobs],
        [job.idempotency and job.idempotency.key for job in jobs],
    )
    by_id = {row["own_id"]: row for row in rows}
    found = ((job.id, _answer_from_key(job, by_id[job.id])) for job in jobs)
    return {job_id: answer for job_id, answer in found if answer is not None}


def _answer_from_key(job: NewJob, row: Any) -> Answer | None:
    if row["id"] is not None:
        return _accepted(row)
    if row["key_job_id"] is None or job.idempotency is None:
        return None
    if row["fingerprint"] not in (job.idempotency.fingerprint, *job.idempotency.also):
        return IdempotencyKeyReused(
            f"The Idempotency-Key {job.idempotency.key!r} was used for another request body."
        )
    kind = SubmissionKind.REPLAYED_DEDUPLICATED if row["deduplicated"] else SubmissionKind.REPLAYED
    filled_in = None
    if row["queue"] is not None:
        filled_in = FilledIn(row["queue"], row["max_attempts"], row["timeout_seconds"])
    return Submission(
        kind,
        row["key_job_id"],
        JobState(row["key_state"]),
        row["key_created_at"],
        filled_in=filled_in,
    )


def _accepted(row: Any) -> Submission:
    return Submission(
        SubmissionKind.ACCEPTED,
        row["id"],
        JobState(row["state"]),
        row["created_at"],
        run_at=row["run_at"],
        expires_at=row["expires_at"],
        pointer_at=row["pointer_at"],
    )


def _refused(error: asyncpg.PostgresError) -> InvalidContent:
    return InvalidContent("PostgreSQL can't store this job.", [("", str(error))])


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
            return _refused(error)


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


def _as_json(jobs: Iterable[NewJob], *, blocked: bool = False) -> str:
    return to_json([_row(job, blocked=blocked) for job in jobs]).decode()


def _attributes_size(job: NewJob) -> int:
    return attributes_size((job.name, job.description, *job.tags), job.metadata)


def _row(job: NewJob, *, blocked: bool) -> dict[str, Any]:
    key = job.idempotency
    return {
        "id": job.id,
        "tenant_id": job.tenant_id,
        "type": job.type,
        "queue": job.queue,
        "priority": job.priority,
        "payload": job.payload if job.sealed_payload is None else job.sealed_payload,
        "payload_bytes": payload_size(job.payload),
        "attribute_bytes": _attributes_size(job),
        "name": job.name,
        "description": job.description,
        "tags": job.tags,
        "metadata": job.metadata or {},
        "unique_key": job.unique_key,
        "depends_on": job.depends_on,
        "run_at": job.run_at,
        "delay_seconds": job.delay_seconds,
        "expires_at": job.expires_at,
        "ttl_seconds": job.ttl_seconds,
        "timeout_seconds": job.timeout_seconds,
        "max_attempts": job.max_attempts,
        "path": key and key.path,
        "key": key and key.key,
        "fingerprint": key and key.fingerprint.hex(),
        "blocked": blocked,
    }
