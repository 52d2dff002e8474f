"""The migrations against a real server: up, in step with the tables, down, and up again."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from taskflow.db.roles import DatabaseRole
from taskflow.db.schema_version import SCHEMA_REVISION
from taskflow_testing.servers import TestServers


@pytest.fixture
async def empty_database(servers: TestServers) -> AsyncIterator[str]:
    """A database without a table; its URL."""
    name = f"taskflow_test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    yield servers.database_url.rpartition("/")[0] + "/" + name
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


async def alembic(
    checkout: Path, database_url: str | None, *words: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TASKFLOW_DATABASE_URL"}
    if database_url is not None:
        environment["TASKFLOW_DATABASE_URL"] = database_url
    config = str(checkout / "migrations" / "alembic.ini")
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "-c", config, *words],
        cwd=checkout / "migrations",  # where no .env could stand in for the environment
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


async def tables_and_types(database_url: str) -> set[str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'"
            " UNION SELECT typname FROM pg_type WHERE typtype = 'e'"
        )
    finally:
        await connection.close()
    return {row["name"] for row in rows}


async def test_up_in_step_down_and_up_again(checkout: Path, empty_database: str) -> None:
    for words in (
        ("upgrade", "head"),
        ("check",),
        ("downgrade", "base"),
        ("upgrade", "head"),
        ("check",),
    ):
        done = await alembic(checkout, empty_database, *words)
        assert done.returncode == 0, done.stderr
        if words == ("downgrade", "base"):
            assert await tables_and_types(empty_database) == {"alembic_version"}


async def test_the_code_asks_for_the_newest_revision(checkout: Path, empty_database: str) -> None:
    done = await alembic(checkout, empty_database, "heads")
    assert done.stdout.split() == [SCHEMA_REVISION, "(head)"]


async def test_two_who_migrate_at_once_take_turns(checkout: Path, empty_database: str) -> None:
    both = await asyncio.gather(
        *(alembic(checkout, empty_database, "upgrade", "head") for _ in range(2))
    )
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    assert "jobs" in await tables_and_types(empty_database)


@pytest.fixture
async def blind_owner(servers: TestServers) -> AsyncIterator[str]:
    """The address of an empty database for its owner, who may take each role and inherits none."""
    name = f"taskflow_test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f"CREATE ROLE {name} LOGIN NOINHERIT PASSWORD 'secret'")
    await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    for role in DatabaseRole:
        with contextlib.suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            await connection.execute(f"CREATE ROLE {role} NOLOGIN")
        await connection.execute(f"GRANT {role} TO {name}")
    address = re.sub(r"//[^@]*@", f"//{name}:secret@", servers.database_url)
    yield address.rpartition("/")[0] + "/" + name
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


async def test_an_owner_that_would_see_no_row_is_told_what_mends_it(
    checkout: Path, servers: TestServers, blind_owner: str
) -> None:
    refused = await alembic(checkout, blind_owner, "upgrade", "head")
    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    mends = re.search(r"run: (.*;) and then", refused.stderr)
    assert mends is not None
    administrator = await asyncpg.connect(servers.database_url)
    await administrator.execute(mends[1])
    await administrator.close()
    done = await alembic(checkout, blind_owner, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    owner = await asyncpg.connect(blind_owner)
    assert await owner.fetchval("SELECT count(*) FROM tenants") == 1
    await owner.close()


async def test_a_missing_address_is_one_line(checkout: Path) -> None:
    done = await alembic(checkout, None, "upgrade", "head")
    assert done.returncode != 0
    assert done.stderr.startswith("taskflow: TASKFLOW_DATABASE_URL: is not set")
    assert done.stderr.count("\n") == 1
