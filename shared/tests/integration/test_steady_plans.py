"""Steady plans: what is done for every job is planned once, and finds its rows by indexes."""

import re
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import asyncpg
import pytest

from taskflow.db.pool import STEADY_PLANS, Database
from taskflow.db.roles import DatabaseRole, connect_as
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow.jobs import (
    attempts,
    contenders,
    dependents,
    fair_claim,
    finishing,
    holding,
    submission,
    submission_answers,
)
from taskflow.jobs.fair_claim import claim_fairly
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import completed
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import Jobs

_FILL = f"""
INSERT INTO jobs (id, tenant_id, type, queue, priority, state, payload, run_at, max_attempts,
                  attempt_limit, created_at, pointer_at)
SELECT gen_random_uuid(), '{DEFAULT_TENANT_ID}', 'type' || i % 3, 'q' || i % 3, 'medium',
       (CASE i % 100 WHEN 0 THEN 'queued' ELSE 'completed' END)::job_state,
       '{{}}', now(), 4, 4, now() - make_interval(secs => i), now()
FROM generate_series(1, 20000) AS i
"""
_FILL_EVENTS = """
INSERT INTO job_events (job_id, tenant_id, event, target, attempt)
SELECT id, tenant_id, 'submit', 'queued', 0 FROM jobs
"""
_FILL_ATTEMPTS = """
INSERT INTO job_attempts (job_id, number, tenant_id, outcome, started_at, finished_at)
SELECT id, 1, tenant_id, 'completed', now(), now() FROM jobs
"""
_FILL_KEYS = """
INSERT INTO idempotency_keys (tenant_id, path, key, fingerprint, job_id, state)
SELECT tenant_id, '/', id::text, 'f', id, state FROM jobs
"""
_PLANS = """
SELECT statement, custom_plans FROM pg_prepared_statements
WHERE statement LIKE '%locked AS MATERIALIZED%' AND statement NOT LIKE '%pg_prepared%'
"""


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    async with open_pool(
        clean_database, DatabaseRole.CONSUMER, steady_plans=True, pool_size=1
    ) as database:
        yield database


async def test_claims_and_outcomes_are_not_planned_for_their_values(
    connection: asyncpg.Connection, database: Database
) -> None:
    jobs = Jobs(connection)
    for _ in range(3):
        job_id = await jobs.submit()
        async with database.connection() as session:
            claimed = await claim_fairly(session, [job_id], by(), slots=2)
            [job] = claimed.verdicts
            assert isinstance(job, attempts.ClaimedJob)
            await finish(session, [(job.attempt, completed("1"))])
    async with database.connection() as session:
        plans = await session.fetch(_PLANS)
    assert len(plans) == 2
    assert [row["custom_plans"] for row in plans] == [0, 0], plans


def by() -> contenders.Claim:
    return contenders.Claim(uuid4(), uuid4(), 30.0, ["echo"])


_STATEMENTS = {
    DatabaseRole.CONSUMER: [
        attempts._CLAIM,
        contenders._HELD,
        contenders._RIVALS,
        fair_claim._SET_ASIDE,
        holding._RELEASE_OF_ONE,
        finishing._FINISH,
        finishing._WHAT_BECAME_OF,
        dependents._LOCK_CHILDREN,
        dependents._SETTLE_CHILDREN,
    ],
    DatabaseRole.INTAKE: [
        submission._SUBMIT,
        submission._SUBMIT_BY_UNIQUE_KEY,
        submission_answers._FIND,
    ],
}


@pytest.mark.parametrize("role", list(_STATEMENTS))
@pytest.mark.parametrize("fill", [(), (_FILL, _FILL_EVENTS, _FILL_ATTEMPTS, _FILL_KEYS)])
async def test_no_plan_reads_all_jobs_however_many_there_were_when_it_was_made(
    connection: asyncpg.Connection,
    clean_database: str,
    role: DatabaseRole,
    fill: Sequence[str],
) -> None:
    for statement in fill:
        await connection.execute(statement)
    await connection.execute("VACUUM ANALYZE jobs, job_events, job_attempts, idempotency_keys")
    session = await connect_as(role, clean_database, server_settings=STEADY_PLANS)
    try:
        plans = [await plan(session, statement) for statement in _STATEMENTS[role]]
    finally:
        await session.close()
    assert all("on jobs" in found for found in plans)
    assert [found for found in plans if "Seq Scan on" in found] == []


async def plan(session: asyncpg.Connection, statement: str) -> str:
    """The plan that it has whatever its values are."""
    await session.execute(f"PREPARE looked_at AS {statement}")
    count = len(set(re.findall(r"\$\d+", statement)))
    values = ", ".join(["NULL"] * count)
    rows = await session.fetch(f"EXPLAIN EXECUTE looked_at({values})")
    await session.execute("DEALLOCATE looked_at")
    return "\n".join(row[0] for row in rows)
