"""What deleted jobs leave in the object store goes for certain, if late."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from taskflow.artifacts import ArtifactStore
from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.commands import delete
from taskflow.jobs.erasures import PendingErasure
from taskflow.jobs.finishing import finish
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.jobs.outcomes import completed
from taskflow.object_store import ObjectStore
from taskflow_scheduler.loops.erasure import EraseObjects
from taskflow_testing.clients import open_pool, open_store
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

LINE = b"a line\n"


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


async def deleted_job(jobs: Jobs, store: ObjectStore) -> tuple[str, str]:
    """The keys of an artifact and a log that a deleted job leaves."""
    job = await jobs.start()
    artifact = await ArtifactStore(store).put(job, "out.txt", b"x", "text/plain")
    log_key = log_of(job.attempt.job_id)
    await store.put(log_key, LINE)
    chunk = LogChunk(TENANT, job.attempt.job_id, 1, StoredLogRange(log_key, 0, len(LINE)), 1)
    await insert_chunks(jobs.connection, [chunk])
    await finish(jobs.connection, [(job.attempt, completed("1"))])
    await delete(jobs.connection, TENANT, job.attempt.job_id)
    return artifact, log_key


def log_of(job_id: UUID) -> str:
    return f"logs/{TENANT}/2026-11-22/{job_id}.jsonl"


async def pending(jobs: Jobs) -> int:
    return int(await jobs.connection.fetchval("SELECT count(*) FROM pending_erasures"))


async def make_due(jobs: Jobs) -> None:
    await jobs.connection.execute("UPDATE pending_erasures SET due_at = now()")


async def test_artifacts_and_logs_of_deleted_jobs_go(
    jobs: Jobs, database: Database, store: ObjectStore
) -> None:
    left = [await deleted_job(jobs, store) for _ in range(7)]
    loop = EraseObjects(database, store)
    while await loop.round():
        pass
    assert [await store.exists(key) for keys in left for key in keys] == [False] * 14
    assert (loop.erased, await pending(jobs)) == (7, 0)


async def test_what_could_not_be_erased_comes_again(
    jobs: Jobs, database: Database, store: ObjectStore, s3: TestBucket
) -> None:
    keys = await deleted_job(jobs, store)
    async with (
        TcpProxy(s3.endpoint) as proxy,
        open_store(s3, endpoint=proxy.url, timeout_seconds=0.5) as behind_proxy,
    ):
        loop = EraseObjects(database, behind_proxy)
        proxy.go_down()
        with pytest.raises(ServiceUnavailable):
            await loop.round()
        assert (loop.erased, await pending(jobs)) == (0, 1)
        # Not at every tick: it has its next turn later.
        assert await loop.round() is False
        proxy.come_back()
        await make_due(jobs)
        await loop.round()
    assert [await store.exists(key) for key in keys] == [False, False]
    assert (loop.erased, await pending(jobs)) == (1, 0)


class Troubled(EraseObjects):
    """Meets an error with the first job that it erases."""

    def __init__(self, database: Database, store: ObjectStore, error: Exception) -> None:
        super().__init__(database, store)
        self._error: Exception | None = error

    async def _erase(self, erasure: PendingErasure) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        await super()._erase(erasure)


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), asyncpg.QueryCanceledError("too long"), KeyError("a defect")],
    ids=["connection", "statement", "defect"],
)
async def test_one_erasure_that_fails_keeps_no_other_one(
    jobs: Jobs, database: Database, store: ObjectStore, error: Exception
) -> None:
    for _ in range(3):
        await deleted_job(jobs, store)
    loop = Troubled(database, store, error)
    with pytest.raises(type(error)):
        await loop.round()
    assert (loop.erased, await pending(jobs)) == (2, 1)


async def test_an_erasure_outlasts_the_limit_for_idle_transactions(
    jobs: Jobs, clean_database: str, store: ObjectStore, s3: TestBucket
) -> None:
    artifact, log_key = await deleted_job(jobs, store)
    other = await jobs.start()
    # The object has lines of a living job, too, so that it is read and written anew.
    await store.put(log_key, LINE * 2)
    stored = StoredLogRange(log_key, len(LINE), len(LINE))
    await insert_chunks(jobs.connection, [LogChunk(TENANT, other.attempt.job_id, 1, stored, 1)])
    async with (
        TcpProxy(s3.endpoint) as proxy,
        open_store(s3, endpoint=proxy.url) as slow,
        open_pool(
            clean_database, DatabaseRole.SCHEDULER, statement_timeout_seconds=0.3
        ) as database,
    ):
        proxy.answer_delay_seconds = 0.5
        loop = EraseObjects(database, slow)
        await loop.round()
        assert loop.erased == 1
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        locks += " (SELECT oid FROM pg_database WHERE datname = current_database())"
        assert await jobs.connection.fetchval(locks) == 0
    assert not await store.exists(artifact)
    assert await store.get(log_key) == b" " * (len(LINE) - 1) + b"\n" + LINE


async def test_an_erasure_that_is_cut_off_keeps_no_lock(
    jobs: Jobs, database: Database, store: ObjectStore, s3: TestBucket
) -> None:
    _, log_key = await deleted_job(jobs, store)
    async with TcpProxy(s3.endpoint) as proxy, open_store(s3, endpoint=proxy.url) as slow:
        await slow.exists(log_key)
        proxy.freeze()
        cut_off = asyncio.create_task(EraseObjects(database, slow).round())

        async def is_taken() -> bool:
            return bool(
                await jobs.connection.fetchval(
                    "SELECT count(*) FROM pending_erasures WHERE tries > 0"
                )
            )

        await eventually(is_taken)
        cut_off.cancel()
        await asyncio.gather(cut_off, return_exceptions=True)
        proxy.thaw()
    await make_due(jobs)
    loop = EraseObjects(database, store)
    await loop.round()
    assert (loop.erased, await store.exists(log_key)) == (1, False)
