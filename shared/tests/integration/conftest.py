from collections.abc import AsyncIterator

import asyncpg
import pytest

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
