"""What one change of a job writes down has one time, and no later one comes before it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.commands import cancel
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import completed
from taskflow.jobs.upkeep import database_time, expire, rescue
from taskflow_testing.jobs import Jobs

MANY = 20


@pytest.fixture
def jobs(connection: asyncpg.Connection) -> Jobs:
    return Jobs(connection)


async def of_outcomes(jobs: Jobs) -> list[UUID]:
    waiting = [await jobs.submit() for _ in range(MANY)]
    running = [each for each in await jobs.claim(*waiting) if isinstance(each, ClaimedJob)]
    await finish(jobs.connection, [(each.attempt, completed("1")) for each in running])
    return waiting


async def of_cancels(jobs: Jobs) -> list[UUID]:
    waiting = [await jobs.submit() for _ in range(MANY)]
    for job_id in waiting:
        await cancel(jobs.connection, DEFAULT_TENANT_ID, job_id)
    return waiting


async def of_children(jobs: Jobs) -> list[UUID]:
    parent = await jobs.submit()
    children = [await jobs.submit(depends_on=[parent]) for _ in range(MANY)]
    await cancel(jobs.connection, DEFAULT_TENANT_ID, parent)
    return children


async def of_expiries(jobs: Jobs) -> list[UUID]:
    at = await database_time(jobs.connection)
    waiting = [await jobs.submit(expires_at=at + timedelta(hours=1)) for _ in range(MANY)]
    await jobs.connection.execute("UPDATE jobs SET expires_at = now()")
    assert sorted(await expire(jobs.connection)) == sorted(waiting)
    return waiting


async def of_rescues(jobs: Jobs) -> list[UUID]:
    running = [(await jobs.start(max_attempts=1)).attempt.job_id for _ in range(MANY)]
    at = await database_time(jobs.connection)
    await rescue(jobs.connection, expired_before=at + timedelta(minutes=1))
    return running


@pytest.mark.parametrize("ends", [of_outcomes, of_cancels, of_children, of_expiries, of_rescues])
async def test_a_job_ends_when_it_was_last_changed(
    jobs: Jobs, ends: Callable[[Jobs], Awaitable[list[UUID]]]
) -> None:
    for job_id in await ends(jobs):
        row = await jobs.row(job_id)
        assert row["created_at"] <= (row["started_at"] or row["created_at"]) <= row["finished_at"]
        assert row["finished_at"] == row["updated_at"]


async def test_a_job_starts_when_it_was_last_changed(jobs: Jobs) -> None:
    for _ in range(MANY):
        row = await jobs.row((await jobs.start()).attempt.job_id)
        assert row["created_at"] <= row["started_at"] == row["updated_at"]
