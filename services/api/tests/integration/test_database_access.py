"""Composed reads in a tenant's name: however one ends, the next has nothing of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from taskflow.db.engine import open_engine
from taskflow.db.roles import DatabaseRole
from taskflow.errors import JobNotFound, ServiceUnavailable
from taskflow.jobs.row_queries import get_job
from taskflow_api.database_access import Reads
from taskflow_testing.jobs import TENANT, Jobs

COUNT = text("SELECT count(*) FROM jobs")


@pytest.fixture
async def engine(clean_database: str) -> AsyncIterator[AsyncEngine]:
    """One connection, so that whoever comes next has the session of the one before."""
    async with open_engine(
        clean_database,
        role=DatabaseRole.TENANT,
        pool_size=1,
        statement_timeout_seconds=2.0,
        pool_timeout_seconds=2.0,
    ) as engine:
        yield engine


async def succeed(connection: AsyncConnection) -> None:
    assert await connection.scalar(COUNT) == 1


async def find_nothing(connection: AsyncConnection) -> None:
    await get_job(connection, TENANT, uuid4())


async def fail(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1 / 0"))


async def be_cut_off(connection: AsyncConnection) -> None:
    await connection.execute(COUNT)
    raise asyncio.CancelledError


@pytest.mark.parametrize("read", [succeed, find_nothing, fail, be_cut_off])
async def test_a_read_leaves_no_tenant_behind(
    engine: AsyncEngine, jobs: Jobs, read: Callable[[AsyncConnection], Awaitable[None]]
) -> None:
    await jobs.submit()
    reads = Reads(engine)
    with contextlib.suppress(JobNotFound, DBAPIError, asyncio.CancelledError):
        async with reads.connection(TENANT) as connection:
            await read(connection)
    async with engine.connect() as session:
        assert await session.scalar(COUNT) == 0
    async with reads.connection(uuid4()) as connection:
        assert await connection.scalar(COUNT) == 0
    async with reads.connection(TENANT) as connection:
        assert await connection.scalar(COUNT) == 1


async def test_a_read_can_not_write(engine: AsyncEngine, jobs: Jobs) -> None:
    await jobs.submit()
    with pytest.raises(ServiceUnavailable, match="read-only transaction"):
        async with Reads(engine).connection(TENANT) as connection:
            await connection.execute(text("UPDATE jobs SET tags = '{mine}'"))
