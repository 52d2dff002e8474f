"""What the doctor says of rows, and of the objects that they name."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import asyncpg
import pytest
from pydantic import SecretStr

from taskflow.doctor.consistency import Bounds, Sources, examine_invariants
from taskflow.doctor.diagnosis import Diagnosis, Level
from taskflow.doctor.servers import open_connection
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.object_store import ObjectStore
from taskflow.settings import DatabaseSettings
from taskflow_testing.clients import open_store
from taskflow_testing.histories import LOG_OBJECT, RESULT_OBJECT, all_kinds
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.tcp_proxy import TcpProxy

BOUNDS = Bounds(
    0,
    100,
    pointer_lost_after_seconds=45.0,
    statement_timeout_seconds=10.0,
    heartbeat_seconds=30.0,
)


def by_subject(diagnoses: Sequence[Diagnosis]) -> dict[str, Diagnosis]:
    return {diagnosis.subject: diagnosis for diagnosis in diagnoses}


async def at_once(seconds: float) -> None:
    """No pause."""


@pytest.fixture
async def object_store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store
        await store.delete([LOG_OBJECT, RESULT_OBJECT])


async def test_healthy_rows_and_objects_take_one_line(
    connection: asyncpg.Connection, jobs: Jobs, object_store: ObjectStore
) -> None:
    await all_kinds(jobs)
    await object_store.put(LOG_OBJECT, b" " * 100)
    await object_store.put(RESULT_OBJECT, b"1")

    (line,) = await examine_invariants(Sources(connection, object_store, []), BOUNDS)

    assert line.level is Level.OK
    assert line.text.startswith("14 hold over all 22 jobs; 2 objects in S3 (I3, I4, ")


async def test_missing_objects_and_unseen_messages_are_told(
    connection: asyncpg.Connection, jobs: Jobs, object_store: ObjectStore
) -> None:
    made = await all_kinds(jobs)
    await object_store.put(RESULT_OBJECT, b"1")

    sources = Sources(connection, object_store, None)
    lines = by_subject(await examine_invariants(sources, BOUNDS, pause=at_once))

    assert lines["I15"].level is Level.FAIL
    assert f"job {made['completed']} attempt 1: the log object" in lines["I15"].details[0]
    assert lines["I14"].level is Level.UNSEEN
    assert set(lines) == {"invariants", "I14", "I15"}


async def test_of_many_that_pass_the_one_that_stays_is_a_violation(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    *passing, staying = [(await jobs.start()).attempt.job_id for _ in range(50)]
    query = "UPDATE jobs SET lease_expires_at = now() + $1 * interval '1 s' WHERE id = ANY($2)"
    await connection.execute(query, -30, [*passing[1:], staying])

    async def meanwhile(seconds: float) -> None:
        # A live worker may take two heartbeats to renew its leases after an outage.
        assert seconds > 2 * BOUNDS.heartbeat_seconds
        await connection.execute(query, 30, passing)
        # A violation that is new is no proof either.
        await connection.execute(query, -30, passing[:1])

    sources = Sources(connection, None, [])
    lines = by_subject(await examine_invariants(sources, BOUNDS, pause=meanwhile))

    assert lines["I10"].text.startswith("violated 1 times")
    assert [str(staying) in detail for detail in lines["I10"].details] == [True]


async def test_objects_that_are_missing_from_a_sample_are_looked_for_again(
    connection: asyncpg.Connection, jobs: Jobs, object_store: ObjectStore
) -> None:
    for number in range(50):
        job_id = (await jobs.start()).attempt.job_id
        stored = StoredLogRange(f"logs/{TENANT}/2026-01-01/worker-{number:08}.jsonl", 0, 100)
        await insert_chunks(connection, [LogChunk(TENANT, job_id, 1, stored, 3)])

    sources, bounds = Sources(connection, object_store, []), replace(BOUNDS, objects=2)
    lines = by_subject(await examine_invariants(sources, bounds, pause=at_once))

    assert lines["I15"].text.startswith("violated 2 times")


async def test_the_look_is_bounded_to_the_newest_jobs(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    for _ in range(3):
        await jobs.submit()
    await connection.execute(
        "UPDATE jobs SET attempt = 9 WHERE id = (SELECT min(id::text)::uuid FROM jobs)"
    )
    bounds = replace(BOUNDS, newest_jobs=2)

    first, *others = await examine_invariants(Sources(connection, None, []), bounds)

    assert "over the 2 newest jobs, submitted since" in first.text
    assert {line.level for line in others} == {Level.UNSEEN}


async def test_a_database_that_freezes_between_two_looks_is_given_up(
    database_url: str, jobs: Jobs
) -> None:
    await jobs.start()
    await jobs.connection.execute("UPDATE jobs SET lease_expires_at = now() - interval '30 s'")
    async with TcpProxy(database_url) as proxy, asyncio.timeout(10):
        settings = DatabaseSettings(database_url=SecretStr(proxy.url))

        async def freeze(seconds: float) -> None:
            proxy.freeze()

        async with open_connection(settings, statement_timeout_seconds=0.5) as connection:
            lines = await examine_invariants(Sources(connection, None, []), BOUNDS, pause=freeze)

    (line,) = lines
    assert (line.level, line.text) == (Level.UNSEEN, "PostgreSQL gave no answer: TimeoutError")


async def test_a_scope_that_takes_too_long_to_see_is_said_with_the_way_out(
    clean_database: str, jobs: Jobs
) -> None:
    await jobs.submit()
    bounds = replace(BOUNDS, newest_jobs=1)
    blocker = await asyncpg.connect(clean_database)
    settings = DatabaseSettings(database_url=SecretStr(clean_database))
    try:
        async with (
            blocker.transaction(),
            open_connection(settings, statement_timeout_seconds=0.3) as connection,
        ):
            await blocker.execute("LOCK TABLE jobs")
            (line,) = await examine_invariants(Sources(connection, None, []), bounds)
    finally:
        await blocker.close()
    assert (line.level, line.text) == (Level.UNSEEN, "took too long to look at")
    assert "--timeout" in (line.what_to_do or "")


async def test_a_job_that_was_left_blocked_is_found_however_old(
    connection: asyncpg.Connection, jobs: Jobs
) -> None:
    parent = await jobs.submit()
    child = await jobs.submit(depends_on=[parent])
    await connection.execute("UPDATE jobs SET state = 'completed' WHERE id = $1", parent)
    newer = [await jobs.submit() for _ in range(2)]

    sources, bounds = Sources(connection, None, []), replace(BOUNDS, newest_jobs=len(newer))
    lines = by_subject(await examine_invariants(sources, bounds, pause=at_once))

    assert [str(child) in detail for detail in lines["I16"].details] == [True]
