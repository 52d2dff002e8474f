"""The jobs of one request: their keys, and all of them in one transaction, or none."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from taskflow.db.pool import Connection
from taskflow.errors import InvalidContent, NotAllAccepted, TaskFlowError
from taskflow.jobs.new_job import Idempotency, NewJob, Submission
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.room import NO_QUOTAS, rooms_in_turn
from taskflow.jobs.submission import Writing, quota_refusals
from taskflow.jobs.submission_answers import KEY_LIFETIME, find_answers

_HAVE_ANOTHERS = f"""
SELECT EXISTS (
    SELECT FROM idempotency_keys
    WHERE tenant_id = $1 AND path = $2 AND key = ANY($3::text[])
      AND fingerprint <> ALL($4::bytea[]) AND created_at >= now() - {KEY_LIFETIME}
)
"""


async def have_anothers(
    connection: Connection, tenant_id: UUID, keys: Sequence[Idempotency]
) -> bool:
    """Whether one of these keys, which are one request's, belongs to another request."""
    first = keys[0]
    found: bool = await connection.fetchval(
        _HAVE_ANOTHERS,
        tenant_id,
        first.path,
        [key.key for key in keys],
        [first.fingerprint, *first.also],
    )
    return found


class _KeyTaken(TaskFlowError):
    """Another request has committed one of the keys since the look for them."""


async def submit_together(
    connection: Connection,
    new_jobs: Sequence[NewJob],
    *,
    with_pointers: bool,
    quotas: DefaultQuotas = NO_QUOTAS,
) -> list[Submission]:
    """Insert jobs of one tenant, all or none: an answer for each, in their order.

    Jobs that are linked can't be among them.

    Raises:
        NotAllAccepted: some are refused.
        InvalidContent: PostgreSQL can't store one of them.
        Exception: one of `db.pool.TRANSIENT_ERRORS`; the same call may be made again.
    """
    # Many at once may be more than what is left free between "far from a quota" and the quota.
    writing = Writing(connection, with_pointers, quotas, in_turn=True)
    while True:
        try:
            async with connection.transaction():
                return await _submit_together(writing, new_jobs)
        except _KeyTaken:
            # The next look finds whose it is.
            continue
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise InvalidContent(
                "PostgreSQL can't store all of these jobs.", [("/jobs", str(error))]
            ) from error


async def _submit_together(writing: Writing, new_jobs: Sequence[NewJob]) -> list[Submission]:
    connection = writing.connection
    rooms = await rooms_in_turn(connection, {job.tenant_id for job in new_jobs}, writing.quotas)
    answers = await find_answers(connection, new_jobs)
    new = [job for job in new_jobs if job.id not in answers]
    answers |= quota_refusals(new, rooms)
    refusals = {
        job_id: answer for job_id, answer in answers.items() if isinstance(answer, TaskFlowError)
    }
    if refusals:
        raise NotAllAccepted(refusals)
    if new:
        answers |= await writing.write(new)
    found = (answers.get(job.id) for job in new_jobs)
    accepted = [answer for answer in found if isinstance(answer, Submission)]
    if len(accepted) < len(new_jobs):
        raise _KeyTaken
    return accepted
