"""The index of log chunks, and taking a job's lines out of objects that others share."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.db.tenants import Session
from taskflow.jobs.commands import cancel, delete
from taskflow.jobs.erasures import take_due_erasures
from taskflow.jobs.log_index import (
    LogChunk,
    StoredLogRange,
    insert_chunks,
    list_chunks,
    object_locked,
)
from taskflow.log_store import erase, log_object_key
from taskflow.object_store import ObjectStore
from taskflow_testing.clients import open_pool, open_store
from taskflow_testing.jobs import TENANT, Connect, Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    async with open_pool(clean_database, DatabaseRole.CONSUMER, pool_size=10) as database:
        yield database


@pytest.fixture
def key() -> str:
    return log_object_key(TENANT, date(2026, 11, 22), uuid7(), 1)


def chunk(job_id: UUID, object_key: str, offset: int, data: bytes, attempt: int = 1) -> LogChunk:
    stored = StoredLogRange(object_key, offset, len(data))
    return LogChunk(TENANT, job_id, attempt, stored, data.count(b"\n"))


async def forget(connection: asyncpg.Connection, job_id: UUID) -> list[StoredLogRange]:
    """What `commands.delete` does to the rows."""
    rows = await connection.fetch(
        "DELETE FROM log_chunks WHERE job_id = $1 RETURNING object_key, byte_offset, byte_length",
        job_id,
    )
    return [StoredLogRange(*row) for row in rows]


def test_a_key_tells_tenant_day_and_worker() -> None:
    worker_id = uuid.UUID(int=7)
    assert log_object_key(TENANT, date(2026, 1, 2), worker_id, 12) == (
        f"logs/{TENANT}/2026-01-02/{worker_id}-00000012.jsonl"
    )


async def test_chunks_are_listed_by_attempt_and_then_as_they_were_written(
    jobs: Jobs, key: str
) -> None:
    job_id, other = await jobs.submit(), await jobs.submit()
    written = [
        chunk(job_id, key, 500, b"x\n", attempt=2),
        chunk(job_id, key, 90, b"second\n"),
        chunk(other, key, 200, b"other\n"),
        chunk(job_id, key, 40, b"third\n"),
    ]
    await insert_chunks(jobs.connection, written)
    last = chunk(job_id, key, 0, b"last\n")
    await insert_chunks(jobs.connection, [last])
    assert await list_chunks(jobs.connection, TENANT, job_id) == [
        written[1],
        written[3],
        last,
        written[0],
    ]
    assert await list_chunks(jobs.connection, TENANT, job_id, attempt=2) == [written[0]]
    assert await list_chunks(jobs.connection, TENANT, job_id, attempt=3) == []


async def test_another_tenant_sees_no_chunk(jobs: Jobs, key: str) -> None:
    job_id = await jobs.submit()
    await insert_chunks(jobs.connection, [chunk(job_id, key, 0, b"x\n")])
    assert await list_chunks(jobs.connection, uuid7(), job_id) == []


async def test_the_same_chunks_again_change_nothing(jobs: Jobs, key: str) -> None:
    job_id = await jobs.submit()
    chunks = [chunk(job_id, key, at, b"x\n") for at in range(0, 10, 2)]
    for _ in range(2):
        await insert_chunks(jobs.connection, chunks)
    assert await list_chunks(jobs.connection, TENANT, job_id) == chunks
    await insert_chunks(jobs.connection, [])


async def test_chunks_of_a_job_that_is_gone_are_not_named(jobs: Jobs, key: str) -> None:
    job_id, gone = await jobs.submit(), uuid7()
    await insert_chunks(
        jobs.connection, [chunk(gone, key, 0, b"x\n"), chunk(job_id, key, 2, b"y\n")]
    )
    assert await list_chunks(jobs.connection, TENANT, gone) == []
    assert len(await list_chunks(jobs.connection, TENANT, job_id)) == 1


async def test_a_deletion_between_an_upload_and_its_row_leaves_neither(
    jobs: Jobs, connect: Connect, key: str
) -> None:
    job_id = await jobs.submit()
    await cancel(jobs.connection, TENANT, job_id)
    named = chunk(job_id, key, 0, b"x\n")
    holder, inserter = await connect(), await connect()
    holding = holder.transaction()
    await holding.start()
    # Who names the same chunk waits, with the snapshot of now.
    await insert_chunks(holder, [named])
    naming = asyncio.create_task(insert_chunks(inserter, [named]))

    async def waits() -> bool:
        query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
        return bool(await jobs.connection.fetchval(query, inserter.get_server_pid()))

    await eventually(waits)
    await delete(jobs.connection, TENANT, job_id)
    await holding.rollback()
    await naming
    assert await list_chunks(jobs.connection, TENANT, job_id) == []
    await jobs.connection.execute("UPDATE pending_erasures SET due_at = now()")
    pending = await take_due_erasures(jobs.connection, limit=10)
    assert [stored for each in pending for stored in each.log_ranges] == [named.stored]


class Interrupted:
    """A connection beside which something happens before each of its transactions commits."""

    def __init__(
        self, connection: asyncpg.Connection, meanwhile: Callable[[], Awaitable[None]]
    ) -> None:
        self._connection = connection
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: str, *args: Any) -> None:
        await self._connection.execute(query, *args)
        if self._connection.is_in_transaction():
            await self._meanwhile()


async def test_a_chunk_that_is_named_before_a_deletion_commits_goes_with_it(
    jobs: Jobs, connect: Connect, key: str
) -> None:
    job_id = await jobs.submit()
    await cancel(jobs.connection, TENANT, job_id)
    named = chunk(job_id, key, 0, b"x\n")
    inserter = await connect()
    deleter = Interrupted(await connect(), lambda: insert_chunks(inserter, [named]))
    await delete(cast("Session", deleter), TENANT, job_id)
    assert await list_chunks(jobs.connection, TENANT, job_id) == []


async def test_an_object_that_only_this_job_wrote_into_is_deleted(
    jobs: Jobs, database: Database, store: ObjectStore, key: str
) -> None:
    job_id = await jobs.submit()
    await store.put(key, b"one\ntwo\n")
    await insert_chunks(
        jobs.connection, [chunk(job_id, key, 0, b"one\n"), chunk(job_id, key, 4, b"two\n")]
    )
    ranges = await forget(jobs.connection, job_id)
    await erase(database, store, ranges)
    assert not await store.exists(key)
    await erase(database, store, ranges)


async def test_in_an_object_of_several_jobs_only_this_ones_lines_go(
    jobs: Jobs, database: Database, store: ObjectStore, key: str
) -> None:
    mine, other = await jobs.submit(), await jobs.submit()
    await store.put(key, b"mine 1\nother\nmine 2\n")
    await insert_chunks(
        jobs.connection,
        [
            chunk(mine, key, 0, b"mine 1\n"),
            chunk(other, key, 7, b"other\n"),
            chunk(mine, key, 13, b"mine 2\n"),
        ],
    )
    await erase(database, store, await forget(jobs.connection, mine))
    assert await store.get(key) == b"      \nother\n      \n"
    await erase(database, store, await forget(jobs.connection, other))
    assert not await store.exists(key)


async def test_jobs_deleted_at_the_same_time_bring_back_none_of_each_others_lines(
    jobs: Jobs, database: Database, store: ObjectStore, key: str
) -> None:
    ids = [await jobs.submit() for _ in range(12)]
    line = b"a line of somebody\n"
    await store.put(key, line * len(ids))
    chunks = [chunk(each, key, at * len(line), line) for at, each in enumerate(ids)]
    await insert_chunks(jobs.connection, chunks)
    *deleted, kept = ids
    ranges = [await forget(jobs.connection, each) for each in deleted]
    await asyncio.gather(*(erase(database, store, each) for each in ranges))
    blank = b" " * (len(line) - 1) + b"\n"
    assert await store.get(key) == blank * len(deleted) + line
    assert len(await list_chunks(jobs.connection, TENANT, kept)) == 1


async def test_ranges_beyond_the_object_and_objects_that_are_gone_do_no_harm(
    jobs: Jobs, database: Database, store: ObjectStore, key: str
) -> None:
    job_id, other = await jobs.submit(), await jobs.submit()
    await store.put(key, b"short\n")
    await insert_chunks(jobs.connection, [chunk(other, key, 0, b"short\n")])
    await insert_chunks(jobs.connection, [chunk(other, f"{key}-gone", 0, b"gone\n")])
    assert job_id != other
    await erase(
        database,
        store,
        [
            StoredLogRange(key, 4, 100),
            StoredLogRange(key, 50, 10),
            StoredLogRange(f"{key}-gone", 0, 5),
        ],
    )
    assert await store.get(key) == b"shor \n"
    assert not await store.exists(f"{key}-gone")


async def test_the_pool_is_whole_again_when_object_storage_failed(
    jobs: Jobs, clean_database: str, s3: TestBucket, key: str
) -> None:
    async with (
        TcpProxy(s3.endpoint) as proxy,
        open_store(s3, endpoint=proxy.url, timeout_seconds=0.3) as store,
        open_pool(clean_database, DatabaseRole.CONSUMER, pool_size=1) as database,
    ):
        await store.put(key, b"x\n")
        proxy.go_down()
        for _ in range(2):
            with pytest.raises(Exception, match="object storage"):
                await erase(database, store, [StoredLogRange(key, 0, 2)])
        proxy.come_back()
        await erase(database, store, [StoredLogRange(key, 0, 2)])
        assert not await store.exists(key)


async def test_an_object_that_is_stored_again_brings_nothing_back_for_good(
    jobs: Jobs, database: Database, store: ObjectStore, key: str
) -> None:
    deleted, other = await jobs.submit(), await jobs.submit()
    data = b"secret\nother\n"
    chunks = [chunk(deleted, key, 0, b"secret\n"), chunk(other, key, 7, b"other\n")]
    await store.put(key, data)
    await insert_chunks(jobs.connection, chunks)
    await cancel(jobs.connection, TENANT, deleted)
    await delete(jobs.connection, TENANT, deleted)
    (first,) = await take_due_erasures(jobs.connection, limit=5)
    await erase(database, store, first.log_ranges)

    # A process that died before it heard of its success has left a copy on disk.
    await store.put(key, data)
    await insert_chunks(jobs.connection, chunks)
    (again,) = await take_due_erasures(jobs.connection, limit=5)
    assert (again.job_id, again.log_ranges) == (deleted, first.log_ranges)
    await erase(database, store, again.log_ranges)
    assert await store.get(key) == b"      \nother\n"
    assert await list_chunks(jobs.connection, TENANT, other) == [chunks[1]]


class _CutOff:
    """A session whose holder is cancelled in the moment in which it gets the lock."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, statement: str, *arguments: Any) -> str:
        """Pass a statement on."""
        answer: str = await self._connection.execute(statement, *arguments)
        if "pg_advisory_lock" in statement:
            raise asyncio.CancelledError
        return answer


async def test_a_lock_that_comes_along_with_a_cancellation_is_given_back(
    jobs: Jobs, database: Database, key: str
) -> None:
    async with database.connection() as connection:
        with pytest.raises(asyncio.CancelledError):
            async with object_locked(cast("Session", _CutOff(connection)), key):
                pass
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        locks += " (SELECT oid FROM pg_database WHERE datname = current_database())"
        assert await jobs.connection.fetchval(locks) == 0
