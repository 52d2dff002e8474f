"""Row-level security costs no index: the statements of requests have the plans that they had."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect

from taskflow.db.models import jobs
from taskflow.db.roles import DatabaseRole, connect_as
from taskflow.db.tenants import DEFAULT_TENANT_ID, begin_for, begin_for_batch
from taskflow.jobs import (
    commands,
    dependents,
    linked_submission,
    row_queries,
    submission,
    submission_answers,
)
from taskflow.jobs.queries import JobFilter
from taskflow.jobs.states import JobState

# A hundred tenants with 200 jobs each, a few of which have failed, wait for others or have a key.
_FILL = """
INSERT INTO jobs (id, tenant_id, type, queue, priority, state, payload, run_at, max_attempts,
                  attempt_limit, created_at, unique_key, depends_on)
SELECT gen_random_uuid(), CASE i % 100 WHEN 0 THEN $1 ELSE md5((i % 100)::text)::uuid END,
       'type' || i % 3, 'q' || i % 3, 'medium',
       (CASE i % 1000 WHEN 100 THEN 'failed' WHEN 200 THEN 'blocked' WHEN 300 THEN 'queued'
        ELSE 'completed' END)::job_state,
       '{}', now(), 4, 4, now() - make_interval(secs => i),
       CASE i % 1000 WHEN 300 THEN 'key' || i END,
       CASE i % 1000 WHEN 200 THEN ARRAY[gen_random_uuid()] ELSE '{}'::uuid[] END
FROM generate_series(1, 20000) AS i
"""


_FILL_KEYS = """
INSERT INTO idempotency_keys (tenant_id, path, key, fingerprint, job_id, state)
SELECT tenant_id, '/', id::text, 'f', id, state FROM jobs
"""
_FILL_EVENTS = """
INSERT INTO job_events (job_id, tenant_id, event, target, attempt)
SELECT id, tenant_id, 'submit', 'queued', 0 FROM jobs
"""


@pytest.fixture
async def tenant(
    connection: asyncpg.Connection, clean_database: str
) -> AsyncIterator[asyncpg.Connection]:
    """A request's connection to a database with jobs in it."""
    await connection.execute(_FILL, DEFAULT_TENANT_ID)
    await connection.execute("ANALYZE jobs")
    session = await connect_as(DatabaseRole.TENANT, clean_database, server_settings={})
    await session.execute(begin_for(DEFAULT_TENANT_ID))
    yield session
    await session.close()


async def plan(session: asyncpg.Connection, statement: str, *values: Any) -> str:
    return "\n".join(
        row[0] for row in await session.fetch(f"EXPLAIN (COSTS off) {statement}", *values)
    )


def page(wanted: JobFilter) -> str:
    statement = (
        select(jobs)
        .where(*wanted.clauses(DEFAULT_TENANT_ID))
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        .limit(21)
    )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (JobFilter(), "ix_jobs_newest"),
        (JobFilter(types=["type1"]), "ix_jobs_newest"),
        (JobFilter(queues=["q1"]), "ix_jobs_newest"),
        (JobFilter(states=[JobState.COMPLETED]), "ix_jobs_newest"),
        (JobFilter(states=[JobState.FAILED]), "ix_jobs_failed"),
        (JobFilter(states=[JobState.CANCELLED]), "ix_jobs_ended_badly"),
    ],
    ids=["all", "type", "queue", "completed", "failed", "cancelled"],
)
async def test_a_page_is_read_in_order(
    tenant: asyncpg.Connection, wanted: JobFilter, index: str
) -> None:
    found = await plan(tenant, page(wanted))
    assert f"Index Scan Backward using {index} on jobs" in found
    assert "Sort" not in found


async def test_twins_and_children_are_found_by_an_index(tenant: asyncpg.Connection) -> None:
    new, again = linked_submission._LIVE_TWINS, commands._LIVE_TWIN
    children = dependents._LOCK_CHILDREN
    some_job = await tenant.fetchval("SELECT id FROM jobs LIMIT 1")
    assert "uq_jobs_unique_key" in await plan(tenant, new, DEFAULT_TENANT_ID, ["key300", "key301"])
    assert "uq_jobs_unique_key" in await plan(tenant, again, DEFAULT_TENANT_ID, "key300", some_job)
    assert "ix_jobs_blocked" in await plan(tenant, children, [some_job])


@pytest.fixture
async def intake(
    connection: asyncpg.Connection, clean_database: str
) -> AsyncIterator[asyncpg.Connection]:
    """A batch's connection to a database with jobs, keys and events in it."""
    await connection.execute(_FILL, DEFAULT_TENANT_ID)
    await connection.execute(_FILL_KEYS)
    await connection.execute(_FILL_EVENTS)
    await connection.execute("ANALYZE")
    session = await connect_as(DatabaseRole.INTAKE, clean_database, server_settings={})
    await session.execute(begin_for_batch({DEFAULT_TENANT_ID}))
    yield session
    await session.close()


async def test_a_batch_of_replays_has_the_plan_that_it_would_have_without_a_policy(
    connection: asyncpg.Connection, intake: asyncpg.Connection
) -> None:
    keys = [str(row["id"]) for row in await intake.fetch("SELECT id FROM jobs LIMIT 200")]
    batch = keys, [DEFAULT_TENANT_ID] * len(keys), ["/"] * len(keys), keys
    found, wanted = [
        re.findall(r"(\w+ Scan.*? on \w+)", await plan(session, submission_answers._FIND, *batch))
        for session in (intake, connection)
    ]
    assert found == wanted


@pytest.fixture
async def unknown_sizes(connection: asyncpg.Connection, clean_database: str) -> AsyncIterator[None]:
    """Nothing is found out about the tables, as an autovacuum would amid what fills them."""
    del clean_database  # which comes first: nothing is known of the size of what it has emptied
    tables = "jobs", "idempotency_keys", "job_events"
    for table in tables:
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    yield
    for table in tables:
        await connection.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


@pytest.mark.usefixtures("unknown_sizes")
async def test_a_batch_of_keys_is_looked_for_key_by_key(
    connection: asyncpg.Connection, clean_database: str
) -> None:
    """Also where PostgreSQL doesn't know yet how much a tenant has."""
    await connection.execute(_FILL, DEFAULT_TENANT_ID)
    await connection.execute(_FILL_KEYS)
    await connection.execute(_FILL_EVENTS)
    session = await connect_as(DatabaseRole.TENANT, clean_database, server_settings={})
    await session.execute(begin_for(DEFAULT_TENANT_ID))
    ids = [str(uuid4()) for _ in range(1_000)]
    batch = ids, [DEFAULT_TENANT_ID] * len(ids), ["/"] * len(ids), ids
    found = await plan(session, submission_answers._FIND, *batch)
    await session.close()
    assert "Hash" not in found
    assert "Seq Scan" not in found
    assert found.count("Index Cond: (id =") == 2


@pytest.mark.usefixtures("unknown_sizes")
@pytest.mark.parametrize("known", [False, True], ids=["nothing", "other tenants"])
async def test_many_rows_are_looked_for_one_by_one(
    connection: asyncpg.Connection, clean_database: str, known: bool
) -> None:
    """Also where PostgreSQL takes the tenant for one that has a job or two."""
    if known:
        await connection.execute(_FILL, uuid4())
        await connection.execute("ANALYZE jobs")
        await connection.execute("UPDATE jobs SET tenant_id = $1", DEFAULT_TENANT_ID)
    else:
        await connection.execute(_FILL, DEFAULT_TENANT_ID)
    session = await connect_as(DatabaseRole.TENANT, clean_database, server_settings={})
    await session.execute(begin_for(DEFAULT_TENANT_ID))
    compiled = row_queries._GET_SMALL.compile(dialect=asyncpg_dialect.dialect())  # type: ignore[no-untyped-call]
    values = compiled.params | {
        "tenant_id": DEFAULT_TENANT_ID,
        "job_ids": [uuid4() for _ in range(25)],
        "largest_bytes": 8192,
    }
    order = compiled.positiontup or ()
    ids = values["job_ids"]
    plans = [
        await plan(session, str(compiled), *(values[name] for name in order)),
        await plan(session, linked_submission._LOCK_PARENTS, DEFAULT_TENANT_ID, ids),
        await plan(session, linked_submission._LIVE_TWINS, DEFAULT_TENANT_ID, ["k1", "k2"]),
    ]
    await session.close()
    scans = [re.findall(r"(\w+ Scan.*?) on jobs", found) for found in plans]
    wanted = "pk_jobs", "pk_jobs", "uq_jobs_unique_key"
    assert scans == [[f"Index Scan using {name}"] for name in wanted]


_MANY_TENANTS = """
WITH many AS (
    INSERT INTO tenants (id, name) SELECT gen_random_uuid(), 'tenant ' || i
    FROM generate_series(1, 2000) AS i RETURNING id
), quotas AS (
    INSERT INTO tenant_quotas (tenant_id, waiting_jobs) SELECT id, 1 FROM many
)
INSERT INTO tenant_usage (tenant_id, waiting_jobs) SELECT id, 1 FROM many
"""


async def test_nothing_of_tenants_is_read_before_a_batch_has_named_them(
    connection: asyncpg.Connection, intake: asyncpg.Connection
) -> None:
    """A join by hash may read a table first, whose policy would then see no names: no quotas."""
    await connection.execute(_MANY_TENANTS)
    await connection.execute("ANALYZE tenants, tenant_quotas, tenant_usage")
    values = "[]", True, False, 0, 0, 0, [DEFAULT_TENANT_ID]
    shown = await plan(intake, submission._SUBMIT, *values)
    _, _, rest = shown.partition("CTE admitted")
    far, _, _ = rest.partition("CTE keys")
    tables = re.findall(r"Scan.*? on (tenant\w+)", far)
    assert set(tables) == {"tenants", "tenant_quotas", "tenant_usage"}
    assert set(re.findall(r"-> +(Nested Loop|Hash|Merge)\b", far)) == {"Nested Loop"}, shown
