"""Answers to submissions, and what one was answered before: by its key, or its own id."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.errors import IdempotencyKeyReused, TaskFlowError
from taskflow.jobs.new_job import FilledIn, NewJob, Submission, SubmissionKind
from taskflow.jobs.states import JobState

KEY_LIFETIME = "interval '24 hours'"

Answer = Submission | TaskFlowError

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
        return accepted(row)
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


def accepted(row: Any) -> Submission:
    """The answer to a job that was inserted, by its row."""
    return Submission(
        SubmissionKind.ACCEPTED,
        row["id"],
        JobState(row["state"]),
        row["created_at"],
        run_at=row["run_at"],
        expires_at=row["expires_at"],
        pointer_at=row["pointer_at"],
    )
