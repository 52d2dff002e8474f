"""A job of every kind of history, made by the functions that the services use."""

from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.backoff import Backoff
from taskflow.jobs.commands import cancel, delete, retry
from taskflow.jobs.dispatch import stamp_due
from taskflow.jobs.finishing import finish
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.jobs.outcomes import (
    JobError,
    Outcome,
    cancelled,
    completed,
    completed_in_object,
    failed,
    released,
)
from taskflow.jobs.upkeep import database_time, expire, rescue
from taskflow_testing.jobs import TENANT, Jobs, idempotency

LOG_OBJECT = f"logs/{TENANT}/2026-01-01/worker-00000001.jsonl"
RESULT_OBJECT = f"artifacts/{TENANT}/2026-01-01/job/result-1.json"


def retryable() -> Outcome:
    """A failure that leaves attempts, with no wait."""
    error = JobError("oops", "it broke", retryable=True)
    return failed(error, failures=1, attempts_left=1, backoff=Backoff(), random_unit=0.5)


def permanent() -> Outcome:
    """A failure for good."""
    error = JobError("oops", "it broke", retryable=False)
    return failed(error, failures=1, attempts_left=1, backoff=Backoff(), random_unit=0.5)


async def all_kinds(jobs: Jobs) -> dict[str, UUID]:
    """A healthy job of every kind, by what became of it."""
    connection = jobs.connection
    made = {
        "completed": await _ended(jobs, completed("null"), idempotency=idempotency("key")),
        "in_object": await _ended(jobs, completed_in_object(RESULT_OBJECT, 70_000)),
        "failed": await _ended(jobs, permanent()),
        "used_up": await _ended(jobs, retryable(), max_attempts=1),
        "retrying": await _ended(jobs, retryable()),
        "released": await _ended(jobs, released()),
        "stopped": await _ended(jobs, cancelled()),
        "retried": await _ended(jobs, permanent()),
        "queued": await jobs.submit(),
        "scheduled": await jobs.submit(delay_seconds=3600.0),
        "due": await jobs.submit(delay_seconds=3600.0),
        "unwanted": await jobs.submit(),
        "expired": await jobs.submit(ttl_seconds=3600.0),
        "running": (await jobs.start()).attempt.job_id,
        "lost": await _lost(jobs),
        "lost_for_good": await _lost(jobs, max_attempts=1),
    }
    await retry(connection, TENANT, made["retried"])
    await jobs.claim(made["released"], worker_id=uuid7())
    await cancel(connection, TENANT, made["unwanted"])
    await connection.execute("UPDATE jobs SET run_at = now() WHERE id = $1", made["due"])
    await stamp_due(connection)
    await connection.execute(
        "UPDATE jobs SET expires_at = now() - interval '1 s' WHERE id = $1", made["expired"]
    )
    await expire(connection)
    made |= await _families(jobs)
    await _write_logs(connection, made["completed"], made["deleted"])
    await delete(connection, TENANT, made["deleted"])
    return made


async def _families(jobs: Jobs) -> dict[str, UUID]:
    good, bad = await jobs.start(), await jobs.start()
    parent = await jobs.submit()
    children = {
        "freed": await jobs.submit(depends_on=[good.attempt.job_id]),
        "orphaned": await jobs.submit(depends_on=[bad.attempt.job_id]),
        "blocked": await jobs.submit(depends_on=[good.attempt.job_id, parent]),
    }
    await finish(jobs.connection, [(good.attempt, completed("1")), (bad.attempt, permanent())])
    return children | {"parent": parent, "deleted": await _ended(jobs, completed("1"))}


async def _ended(jobs: Jobs, outcome: Outcome, **changes: object) -> UUID:
    claimed = await jobs.start(**changes)
    await finish(jobs.connection, [(claimed.attempt, outcome)])
    return claimed.attempt.job_id


async def _lost(jobs: Jobs, **changes: object) -> UUID:
    claimed: ClaimedJob = await jobs.start(**changes)
    await jobs.connection.execute(
        "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = $1",
        claimed.attempt.job_id,
    )
    await rescue(jobs.connection, expired_before=await database_time(jobs.connection))
    return claimed.attempt.job_id


async def _write_logs(connection: asyncpg.Connection, *job_ids: UUID) -> None:
    await insert_chunks(
        connection,
        [
            LogChunk(TENANT, job_id, 1, StoredLogRange(LOG_OBJECT, 100 * position, 100), 3)
            for position, job_id in enumerate(job_ids)
        ],
    )
