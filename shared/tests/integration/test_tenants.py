"""Connections in tenants' names: what they see, and that no name outlives its transaction."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskflow.db.pool import Database, IntakeDatabase, TenantDatabase
from taskflow.db.roles import DatabaseRole
from taskflow.db.tenants import TenantConnection, begin_for, begin_for_batch
from taskflow.errors import JobNotFound
from taskflow.jobs.commands import cancel
from taskflow.jobs.new_job import Submission
from taskflow.jobs.submission import submit
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import TENANT, Jobs, idempotency, new_job

OTHER = UUID("00000000-0000-7000-8000-000000000002")
COUNT = "SELECT count(*) FROM jobs"


@pytest.fixture
async def pool(clean_database: str) -> AsyncIterator[Database]:
    """One connection, so that whoever comes next has the session of the one before."""
    async with open_pool(clean_database, DatabaseRole.TENANT, pool_size=1) as database:
        yield database


@pytest.fixture
async def intake(clean_database: str) -> AsyncIterator[IntakeDatabase]:
    async with open_pool(clean_database, DatabaseRole.INTAKE, pool_size=1) as database:
        yield IntakeDatabase(database)


@pytest.mark.parametrize("name", ["'; DROP TABLE jobs; --", str(TENANT), None, 7])
def test_only_a_uuid_becomes_part_of_a_statement(name: Any) -> None:
    with pytest.raises(TypeError, match="UUID"):
        begin_for(name)
    with pytest.raises(TypeError, match="UUID"):
        begin_for_batch([TENANT, name])


async def test_each_sees_its_own(pool: Database, jobs: Jobs) -> None:
    await jobs.submit()
    await jobs.submit(tenant_id=OTHER)
    await jobs.submit(tenant_id=OTHER)
    tenants = TenantDatabase(pool)
    async with tenants.connection(TENANT) as connection:
        assert await connection.fetchval(COUNT) == 1
        async with connection.transaction():
            assert await connection.fetchval(COUNT) == 1
    async with tenants.connection(OTHER) as connection:
        assert await connection.fetchval(COUNT) == 2
    async with tenants.connection(uuid4()) as connection:
        assert await connection.fetchval(COUNT) == 0
    async with pool.connection() as session:
        assert await session.fetchval(COUNT) == 0


async def is_over(pool: Database) -> bool:
    """Whether nothing of a transaction is left in the session."""
    async with pool.connection() as session:
        left = await session.fetchval("SELECT current_setting('taskflow.tenant', true)")
        return not left and not session.is_in_transaction()


async def test_an_error_undoes_its_transaction_and_keeps_the_session(
    pool: Database, jobs: Jobs
) -> None:
    job_id = await jobs.submit()

    async def fail(connection: TenantConnection) -> None:
        async with connection.transaction():
            await connection.execute("UPDATE jobs SET tags = '{mine}'")
            await connection.execute("SELECT 1 / 0")

    async with TenantDatabase(pool).connection(TENANT) as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await fail(connection)
        with pytest.raises(JobNotFound):
            await cancel(connection, TENANT, uuid4())
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetchrow("SELECT 1 / 0")
        assert await connection.fetchval("SELECT pg_backend_pid()") == pid
    assert (await jobs.row(job_id))["tags"] == []
    assert await is_over(pool)


async def test_whoever_is_cut_off_leaves_no_session_behind(pool: Database, jobs: Jobs) -> None:
    await jobs.submit()

    async def be_cut_off() -> None:
        async with TenantDatabase(pool).connection(TENANT) as connection, connection.transaction():
            await connection.execute("UPDATE jobs SET tags = '{mine}'")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await be_cut_off()
    assert await is_over(pool)
    assert await jobs.connection.fetchval("SELECT count(*) FROM jobs WHERE tags <> '{}'") == 0


async def test_a_batch_of_several_tenants_is_one_statement(
    intake: IntakeDatabase, jobs: Jobs
) -> None:
    batch = [new_job(), new_job(tenant_id=OTHER, idempotency=idempotency("k"))]
    async with intake.connection({TENANT, OTHER}) as connection:
        answers = await submit(connection, batch, with_pointers=True)
        again = await submit(
            connection,
            [new_job(tenant_id=OTHER, idempotency=idempotency("k"))],
            with_pointers=True,
        )
    assert [isinstance(answer, Submission) for answer in answers] == [True, True]
    assert isinstance(again[0], Submission)
    assert again[0].job_id == batch[1].id
    tenants = await jobs.connection.fetch("SELECT DISTINCT tenant_id, xmin::text FROM jobs")
    assert {row["tenant_id"] for row in tenants} == {TENANT, OTHER}
    assert len({row["xmin"] for row in tenants}) == 1


async def test_a_batch_holds_nothing_of_a_tenant_that_it_does_not_name(
    intake: IntakeDatabase, jobs: Jobs
) -> None:
    async with intake.connection({TENANT}) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await submit(connection, [new_job(), new_job(tenant_id=OTHER)], with_pointers=True)
    assert await jobs.connection.fetchval(COUNT) == 0


async def test_intake_neither_reads_payloads_nor_changes_jobs(intake: IntakeDatabase) -> None:
    async def refuses(connection: TenantConnection, statement: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)

    async with intake.connection({TENANT}) as connection:
        await refuses(connection, "SELECT payload FROM jobs")
        await refuses(connection, "UPDATE jobs SET state = 'queued'")
        await refuses(connection, "DELETE FROM jobs")
