"""Submitting jobs, many in one statement: job, idempotency key and event, all or nothing.

Ids come from this side, so a batch whose answer was lost is sent again as it was and makes no
job twice. Equal keys meet in the primary key of `idempotency_keys`: the later one waits for the
earlier one's commit and then reads whose it is.

Tenants that are far from their quotas are judged in that statement. Others take turns (`room`), and
what finds no room is looked for among what was accepted before, so that no replay is refused.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from pydantic_core import to_json

from taskflow.db.pool import Connection
from taskflow.db.tenants import IntakeConnection, named_by
from taskflow.errors import InvalidContent
from taskflow.jobs.new_job import NewJob
from taskflow.jobs.quotas import DefaultQuotas, attributes_size, judge, payload_size
from taskflow.jobs.room import NO_QUOTAS, Room, far_tenants, rooms_in_turn
from taskflow.jobs.states import JobEvent, targets
from taskflow.jobs.submission_answers import KEY_LIFETIME, Answer, accepted, find_answers
from taskflow.jobs.usage import KEPT_OF_NEW_JOB, count_changes

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

# Everything below comes of the row in which the tenants are named.
_INSERT_ADMITTED = f"""
WITH named AS MATERIALIZED (
    SELECT {named_by("$7::uuid[]")} AS tenants
), input AS MATERIALIZED (
    SELECT input.*,
           coalesce(run_at, now() + make_interval(secs => delay_seconds), now()) AS due_at,
           coalesce(expires_at, now() + make_interval(secs => ttl_seconds)) AS ends_at
    FROM named CROSS JOIN LATERAL
         json_to_recordset(CASE WHEN named.tenants IS NOT NULL THEN $1::json END)
         AS input ({_INPUT_COLUMNS})
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
    WHERE key IS NULL OR id IN (SELECT job_id FROM keys)"""

_TELL_ACCEPTED = f"""
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

_SUBMIT = f"{_INSERT_ADMITTED}{_TELL_ACCEPTED}"
# All idempotency keys first, then unique keys in their order: so batches that share some of them
# don't wait for each other in turn.
_SUBMIT_BY_UNIQUE_KEY = f"{_INSERT_ADMITTED} ORDER BY unique_key {_TELL_ACCEPTED}"


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
    are linked go through `submit_linked` instead.

    Raises:
        Exception: one of `db.pool.TRANSIENT_ERRORS`; the same call may be made again.
    """
    answers: dict[UUID, Answer] = {}
    pending = list(new_jobs)
    in_turn = False
    while pending:
        writing = Writing(connection, with_pointers, quotas, in_turn=in_turn)
        answers |= await writing.insert(first_of_each_key(pending))
        # Not answered: the key belongs to another request, the answer to our commit was lost, or
        # the tenant is near a quota.
        unanswered = [job for job in pending if job.id not in answers]
        answers |= await find_answers(connection, unanswered)
        # Still not: near a quota; or the key's first request was refused, so that the next one
        # takes its place.
        pending = [job for job in unanswered if job.id not in answers]
        in_turn = True
    return [answers[job.id] for job in new_jobs]


def first_of_each_key(jobs: Iterable[NewJob]) -> list[NewJob]:
    """One statement can't meet its own rows in a conflict, so equal idempotency keys take turns."""
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
    """How a batch is inserted; `in_turn`: its tenants' quotas are judged with nobody beside.

    `by_unique_key`: some of its jobs may have one.
    """

    connection: Connection
    with_pointers: bool
    quotas: DefaultQuotas
    in_turn: bool
    by_unique_key: bool = False

    async def insert(self, batch: Sequence[NewJob]) -> dict[UUID, Answer]:
        """The answers; a row that PostgreSQL refuses is found by halving and refused alone."""
        try:
            if not self.in_turn:
                return await self.write(batch)
            async with self.connection.transaction():
                return await self._write_in_turn(batch)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if len(batch) == 1:
                return {batch[0].id: refused_by_postgres(error)}
            middle = len(batch) // 2
            return await self.insert(batch[:middle]) | await self.insert(batch[middle:])

    async def write(
        self, batch: Sequence[NewJob], *, blocked: Collection[UUID] = ()
    ) -> dict[UUID, Answer]:
        """The hot statement; it leaves out tenants that are near a quota unless it is our turn."""
        values = (
            _as_json(batch, blocked=blocked),
            self.with_pointers,
            self.in_turn,
            self.quotas.waiting_jobs,
            self.quotas.kept_bytes,
            self.quotas.registered_kept_bytes,
        )
        statement = _SUBMIT_BY_UNIQUE_KEY if self.by_unique_key else _SUBMIT
        if isinstance(self.connection, IntakeConnection):
            rows = await self.connection.fetch_naming(statement, *values)
        else:
            rows = await self.connection.fetch(statement, *values, None)
        return {row["id"]: accepted(row) for row in rows}

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


def refused_by_postgres(error: asyncpg.PostgresError) -> InvalidContent:
    """The answer to a job whose row PostgreSQL doesn't take."""
    return InvalidContent("PostgreSQL can't store this job.", [("", str(error))])


def _as_json(jobs: Iterable[NewJob], *, blocked: Collection[UUID]) -> str:
    return to_json([_row(job, blocked=job.id in blocked) for job in jobs]).decode()


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
