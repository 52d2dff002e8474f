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
from taskflow.jobs.quotas import JOB_BYTES, STATE_COLUMNS, jobs_by_state
from taskflow.jobs.states import JobState
from taskflow_testing.servers import TestServers

_JOB = """
INSERT INTO jobs (id, tenant_id, type, queue, priority, state, payload, result, run_at,
                  max_attempts, attempt_limit)
VALUES (uuidv7(), '00000000-0000-7000-8000-000000000001', 'echo', 'default', 'medium', 'queued',
        $1, $2, now(), 4, 4)
"""


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


_ROWS_OF_BEFORE = """
INSERT INTO jobs (id, tenant_id, type, queue, priority, state, payload, result, run_at,
                  max_attempts, attempt_limit)
SELECT gen_random_uuid(), (SELECT id FROM tenants), 'echo', 'default', 'medium', state::job_state,
       '{"n": 1}', result::jsonb, now(), 4, 4
FROM (VALUES ('queued', NULL), ('scheduled', NULL), ('running', NULL), ('failed', NULL),
             ('completed', '"abc"'), ('completed', NULL)) AS old (state, result)
"""


async def test_what_is_there_is_counted_and_what_is_held_is_sent_after_a_downgrade(
    checkout: Path, empty_database: str
) -> None:
    assert (await alembic(checkout, empty_database, "upgrade", "0006")).returncode == 0
    connection = await asyncpg.connect(empty_database)
    await connection.execute(_ROWS_OF_BEFORE)

    done = await alembic(checkout, empty_database, "upgrade", "0007")

    assert done.returncode == 0, done.stderr
    counts = await connection.fetch(
        "SELECT waiting_jobs, kept_bytes, running_jobs FROM tenant_usage"
    )
    kept = 6 * (JOB_BYTES + len('{"n": 1}')) + len('"abc"')
    assert [tuple(row) for row in counts] == [(2, kept, 1)]
    sizes = await connection.fetch(
        "SELECT DISTINCT payload_bytes, attribute_bytes, result_bytes FROM jobs"
    )
    assert {tuple(row) for row in sizes} == {(8, 0, None), (8, 0, 5)}

    await connection.execute("UPDATE jobs SET pointer_at = 'infinity' WHERE state = 'queued'")
    done = await alembic(checkout, empty_database, "downgrade", "0006")
    assert done.returncode == 0, done.stderr
    assert not await connection.fetchval("SELECT count(pointer_at) FROM jobs")
    await connection.close()


async def test_states_are_counted_and_a_process_of_before_goes_on(
    checkout: Path, empty_database: str
) -> None:
    assert (await alembic(checkout, empty_database, "upgrade", "0006")).returncode == 0
    connection = await asyncpg.connect(empty_database)
    await connection.execute(_ROWS_OF_BEFORE)
    done = await alembic(checkout, empty_database, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    # As the version before counts a submission.
    await connection.execute(
        "INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)"
        " SELECT id, 1, 0, 0 FROM tenants"
    )

    totals = ", ".join(f"sum({column})" for column in ("waiting_jobs", *STATE_COLUMNS.values()))
    sums = await connection.fetchrow(f"SELECT {totals} FROM tenant_usage")

    assert sums is not None
    found = jobs_by_state(
        dict(zip(("waiting_jobs", *STATE_COLUMNS.values()), map(int, sums), strict=True))
    )
    some = {JobState.QUEUED: 2, JobState.COMPLETED: 2}
    some |= dict.fromkeys((JobState.SCHEDULED, JobState.RUNNING, JobState.FAILED), 1)
    assert found == dict.fromkeys(JobState, 0) | some
    done = await alembic(checkout, empty_database, "downgrade", "0007")
    assert done.returncode == 0, done.stderr
    assert await connection.fetchval("SELECT sum(waiting_jobs) FROM tenant_usage") == 3
    await connection.close()


async def test_the_code_asks_for_the_newest_revision(checkout: Path, empty_database: str) -> None:
    done = await alembic(checkout, empty_database, "heads")
    assert done.stdout.split() == [SCHEMA_REVISION, "(head)"]


async def test_what_is_there_is_counted_and_what_comes_says_its_size(
    checkout: Path, empty_database: str
) -> None:
    before = await alembic(checkout, empty_database, "upgrade", "0006")
    assert before.returncode == 0, before.stderr
    connection = await asyncpg.connect(empty_database)
    try:
        await connection.execute(_JOB, '{"text": "hello"}', '"done"')
        after = await alembic(checkout, empty_database, "upgrade", "head")
        assert after.returncode == 0, after.stderr
        # As a process of the version before does until it is stopped.
        await connection.execute(_JOB, '{"text": "later"}', None)
        sizes = await connection.fetch(
            "SELECT payload_bytes, attribute_bytes, result_bytes FROM jobs ORDER BY id"
        )
        assert [tuple(row) for row in sizes] == [(17, 0, 6), (0, 0, None)]
        counted = await connection.fetchrow("SELECT waiting_jobs, kept_bytes FROM tenant_usage")
        assert counted is not None
        assert tuple(counted) == (1, JOB_BYTES + 17 + 6)
    finally:
        await connection.close()


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


async def test_a_reader_that_is_in_the_way_for_long_is_told_in_one_line(
    checkout: Path, empty_database: str
) -> None:
    assert (await alembic(checkout, empty_database, "upgrade", "0007")).returncode == 0
    reader = await asyncpg.connect(empty_database)
    async with reader.transaction():
        await reader.fetch("SELECT FROM tenant_usage")
        refused = await alembic(checkout, empty_database, "upgrade", "head")
        assert refused.returncode != 0
        assert "nothing was changed" in refused.stderr
        assert refused.stderr.count("\n") == 1
    await reader.close()
    done = await alembic(checkout, empty_database, "upgrade", "head")
    assert done.returncode == 0, done.stderr


async def test_a_missing_address_is_one_line(checkout: Path) -> None:
    done = await alembic(checkout, None, "upgrade", "head")
    assert done.returncode != 0
    assert done.stderr.startswith("taskflow: TASKFLOW_DATABASE_URL: is not set")
    assert done.stderr.count("\n") == 1
