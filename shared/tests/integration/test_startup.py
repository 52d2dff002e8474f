import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.db.startup import is_ready_before, wait_for_database
from taskflow.errors import ConfigurationError, SchemaBehind, ServiceUnavailable


async def opened(url: str) -> Database:
    return await open_database(
        url,
        role=DatabaseRole.API,
        application_name="test",
        pool_size=1,
        statement_timeout_seconds=5,
        acquire_timeout_seconds=0.5,
    )


@pytest.fixture
async def empty_database(clean_database: str) -> AsyncIterator[str]:
    name = urlsplit(clean_database).path[1:] + "_empty"
    connection = await asyncpg.connect(clean_database)
    await connection.execute(f"CREATE DATABASE {name}")
    yield clean_database.rpartition("/")[0] + "/" + name
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def test_a_migrated_database_is_ready(clean_database: str) -> None:
    database = await opened(clean_database)
    await wait_for_database(database)
    await database.close()


async def test_a_database_ahead_of_the_code_is_ready(clean_database: str) -> None:
    connection = await asyncpg.connect(clean_database)
    old = await connection.fetchval("SELECT version_num FROM alembic_version")
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    try:
        database = await opened(clean_database)
        await wait_for_database(database)
        await database.close()
    finally:
        await connection.execute("UPDATE alembic_version SET version_num = $1", old)
        await connection.close()


async def test_a_schema_from_before_the_roles_is_said(clean_database: str) -> None:
    connection = await asyncpg.connect(clean_database)
    await connection.execute("REVOKE SELECT ON alembic_version FROM taskflow_api")
    try:
        database = await opened(clean_database)
        with pytest.raises(SchemaBehind, match="make migrate"):
            await wait_for_database(database)
        await database.close()
    finally:
        await connection.execute("GRANT SELECT ON alembic_version TO taskflow_api")
        await connection.close()


async def test_a_schema_that_is_behind_is_said(empty_database: str) -> None:
    database = await opened(empty_database)
    with pytest.raises(SchemaBehind, match="make migrate"):
        await wait_for_database(database)
    await database.close()


@pytest.mark.parametrize(
    ("change", "said"), [("password", "password authentication"), ("name", "does not exist")]
)
async def test_a_refusal_names_the_setting(clean_database: str, change: str, said: str) -> None:
    parts = urlsplit(clean_database)
    netloc = f"{parts.username}:wrong@{parts.hostname}:{parts.port}"
    wrong = parts._replace(netloc=netloc) if change == "password" else parts._replace(path="/nope")
    database = await opened(wrong.geturl())
    with pytest.raises(ConfigurationError, match=f"TASKFLOW_DATABASE_URL.*{said}"):
        await wait_for_database(database)
    # Later, in a process that runs: a password that was changed is an outage, not a defect.
    with pytest.raises(ServiceUnavailable, match=said):
        async with database.connection():
            pass
    await database.close()


async def test_no_answer_in_time_names_the_setting() -> None:
    database = await opened("postgresql://u:p@127.0.0.1:1/db")
    with pytest.raises(ConfigurationError, match="TASKFLOW_DATABASE_URL: no answer"):
        await wait_for_database(database, patience_seconds=0.2)
    with pytest.raises(ServiceUnavailable):
        async with database.connection():
            pass
    await database.close()


async def test_a_pool_that_is_used_up_says_so_in_time(clean_database: str) -> None:
    database = await opened(clean_database)
    async with database.connection():
        with pytest.raises(ServiceUnavailable, match="PostgreSQL"):
            async with database.connection():
                pass
    await database.close()


async def test_a_process_that_is_to_stop_does_not_wait_for_its_database() -> None:
    database = await opened("postgresql://u:p@127.0.0.1:1/db")
    stopping = asyncio.Event()
    stopping.set()
    assert not await asyncio.wait_for(is_ready_before(stopping.wait, database), 5)
    await database.close()


async def test_a_process_goes_on_when_its_database_is_ready(clean_database: str) -> None:
    database = await opened(clean_database)
    assert await is_ready_before(asyncio.Event().wait, database)
    await database.close()
