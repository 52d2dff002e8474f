from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import Connect, Jobs


@pytest.fixture
async def connection(clean_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(clean_database)
    yield connection
    await connection.close()


@pytest.fixture
def jobs(connection: asyncpg.Connection) -> Jobs:
    return Jobs(connection)


@pytest.fixture
async def connect(clean_database: str) -> AsyncIterator[Connect]:
    opened: list[asyncpg.Connection] = []

    async def connect_another() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(clean_database))
        return opened[-1]

    yield connect_another
    for connection in opened:
        await connection.close()


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    patient = {"statement_timeout_seconds": 5.0, "acquire_timeout_seconds": 5.0}
    async with open_pool(clean_database, DatabaseRole.CONSUMER, pool_size=2, **patient) as database:
        yield database


@pytest.fixture
def lane() -> Lane:
    """A lane of the test's own: the virtual host outlives it."""
    return Lane(f"q{uuid4().hex[:12]}", Priority.MEDIUM)
