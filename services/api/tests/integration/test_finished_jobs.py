"""Many who read one job at once, and those who read one that was retried, deleted or taken away."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy import Engine, event
from structlog.testing import capture_logs

from taskflow.artifacts import ArtifactStore
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import JobError, Outcome, OutcomeKind, completed_in_object
from taskflow.object_store import ObjectStore
from taskflow_api import job_types
from taskflow_api.cache import store as store_module
from taskflow_api.rate_limits import shared_buckets
from taskflow_testing.api_keys import make_key
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.own_servers import Server
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
FAILED = Outcome(OutcomeKind.FAILED, error=JobError("ValueError", "no", retryable=False))
RESULT = {"rows": ["ä" * 100] * 1_000}
MANY = 500


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy does not make Redis a slow one, but a frozen one is found out."""
    for module in (store_module, shared_buckets):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


async def end(jobs: Jobs, job_id: UUID, outcome: Outcome) -> None:
    (claimed,) = await jobs.claim(job_id)
    assert isinstance(claimed, ClaimedJob)
    await finish(jobs.connection, [(claimed.attempt, outcome)])


async def completed_job(jobs: Jobs, store: ObjectStore, **changes: Any) -> UUID:
    """One with a result in the object store."""
    claimed = await jobs.start(**changes)
    body = json.dumps(RESULT).encode()
    key = await ArtifactStore(store).put(claimed, "result-1.json", body, "application/json")
    await finish(jobs.connection, [(claimed.attempt, completed_in_object(key, len(body)))])
    return claimed.attempt.job_id


async def failed_job(jobs: Jobs) -> UUID:
    job_id = await jobs.submit()
    await end(jobs, job_id, FAILED)
    return job_id


@contextmanager
def counted_reads(table: str) -> Iterator[list[str]]:
    """The statements that read this table meanwhile, of all processes."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if f"FROM {table}" in statement.replace("\n", ""):
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def counted_objects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the objects that were read."""
    keys: list[str] = []
    read = ArtifactStore.read

    async def counted(self: ArtifactStore, tenant_id: UUID, key: str) -> bytes:
        keys.append(key)
        return await read(self, tenant_id, key)

    monkeypatch.setattr(ArtifactStore, "read", counted)
    return keys


async def test_five_hundred_at_two_processes_read_a_result_once_and_its_row_seldom(
    start: Any,
    jobs: Jobs,
    store: ObjectStore,
    counted_objects: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The loop that all of them share is busy for longer than a read waits for Redis.
    for module in (store_module, shared_buckets):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 30.0)
    job_id = await completed_job(jobs, store)
    async with start() as one, start() as other:
        with counted_reads("jobs") as statements:
            answers = await asyncio.gather(
                *(api.get(f"{JOBS}/{job_id}") for _ in range(MANY // 2) for api in (one, other))
            )
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()["result"] == RESULT for answer in answers)
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    assert len(counted_objects) == 1
    assert 1 <= len(statements) <= MANY / 50


async def test_five_hundred_at_two_processes_seldom_read_a_schema(start: Any) -> None:
    async with start() as one, start() as other:
        with counted_reads("job_types") as statements:
            answers = await asyncio.gather(
                *(
                    api.get("/api/v1/job-types/echo/schema")
                    for _ in range(MANY // 2)
                    for api in (one, other)
                )
            )
    assert {answer.status_code for answer in answers} == {200}
    assert 1 <= len(statements) <= MANY / 50


async def test_nobody_sees_a_job_as_it_was_before_it_was_retried(start: Any, jobs: Jobs) -> None:
    async with start() as one, start() as other:
        for _ in range(5):
            job_id = await failed_job(jobs)
            path = f"{JOBS}/{job_id}"
            stop = asyncio.Event()

            async def poll(api: httpx.AsyncClient, path: str, stop: asyncio.Event) -> None:
                while not stop.is_set():
                    await api.get(path)

            polls = [
                asyncio.create_task(poll(api, path, stop)) for api in (one, other) for _ in range(8)
            ]
            await asyncio.sleep(0.02)
            assert (await one.post(f"{path}/retry")).json()["state"] == "queued"
            seen = await asyncio.gather(*(api.get(path) for api in (one, other) for _ in range(20)))
            assert {answer.json()["state"] for answer in seen} == {"queued"}
            stop.set()
            await asyncio.gather(*polls)


async def test_with_redis_frozen_a_retried_and_a_deleted_job_are_never_shown_as_they_were(
    start: Any, jobs: Jobs, store: ObjectStore, own_redis: Server
) -> None:
    url = own_redis.url
    deleted, retried = await completed_job(jobs, store), await failed_job(jobs)
    async with start(redis_url=url) as one, start(redis_url=url) as other:
        for api in (one, other):
            await eventually(partial(is_limited_by_all, api))
            assert (await api.get(f"{JOBS}/{deleted}")).json()["result"] == RESULT
            assert (await api.get(f"{JOBS}/{retried}")).json()["state"] == "failed"
        async with Redis.from_url(url) as client:
            assert await client.keys("taskflow:cache:*:result:*")

        own_redis.freeze()
        assert (await one.delete(f"{JOBS}/{deleted}")).status_code == 204
        assert (await one.post(f"{JOBS}/{retried}/retry")).status_code == 202
        for api in (other, one):
            assert (await api.get(f"{JOBS}/{deleted}")).status_code == 404
            assert (await api.get(f"{JOBS}/{retried}")).json()["state"] == "queued"

        own_redis.thaw()
        for api in (other, one):
            await eventually(partial(is_limited_by_all, api))
            assert (await api.get(f"{JOBS}/{deleted}")).status_code == 404
            assert (await api.get(f"{JOBS}/{retried}")).json()["state"] == "queued"


async def test_who_finds_redis_away_by_the_limits_does_not_wait_for_it_once_more(
    start: Any,
    jobs: Jobs,
    store: ObjectStore,
    own_redis: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = f"{JOBS}/{await completed_job(jobs, store)}"
    calls = 0
    made = store_module._made

    async def counted(call: Any) -> Any:
        nonlocal calls
        calls += 1
        return await made(call)

    monkeypatch.setattr(store_module, "_made", counted)
    async with start(redis_url=own_redis.url) as api:

        async def both_ask_redis() -> bool:
            before = calls
            answer = await api.get(path)
            return calls > before and "q=300000" in answer.headers["RateLimit-Policy"]

        await eventually(both_ask_redis)
        own_redis.freeze()
        calls = 0
        with capture_logs() as logged:
            answer = await api.get(path)
        assert (answer.json()["result"], calls) == (RESULT, 0)
        assert {"rate_limits_local", "cache_away"} <= {each["event"] for each in logged}

        own_redis.thaw()
        await eventually(both_ask_redis)


async def is_limited_by_all(api: httpx.AsyncClient) -> bool:
    """Whether the process has found Redis well."""
    return "q=300000" in (await api.get("/api/v1/workers")).headers["RateLimit-Policy"]


async def test_what_is_cached_is_no_way_past_a_key(
    start: Any, jobs: Jobs, store: ObjectStore, connection: asyncpg.Connection, own_redis: Server
) -> None:
    job_id = await completed_job(jobs, store)
    revoked, theirs = await make_key(connection), await make_key(connection, tenant_id=uuid4())
    async with start(redis_url=own_redis.url) as one, start(redis_url=own_redis.url) as other:

        async def status(api: httpx.AsyncClient, key: str) -> int:
            answer = await api.get(f"{JOBS}/{job_id}", headers={"X-API-Key": key})
            return answer.status_code

        for api in (one, other):
            assert await status(api, revoked.key.text) == 200
            assert await status(api, theirs.key.text) == 404
        own_redis.freeze()
        await status(other, revoked.key.text)  # Redis is found out.
        assert (await one.delete(f"/api/v1/api-keys/{revoked.id}")).status_code == 204
        began = time.monotonic()

        async def is_refused() -> bool:
            return await status(other, revoked.key.text) == 401

        await eventually(is_refused)
        assert time.monotonic() - began < 1
        own_redis.thaw()
        assert await status(other, revoked.key.text) == 401


async def test_a_payload_is_redacted_by_the_schema_of_now(
    api: httpx.AsyncClient,
    jobs: Jobs,
    store: ObjectStore,
    register: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_types, "FRESH_SECONDS", 0.0)
    job_id = await completed_job(jobs, store, payload={"text": "hello"})
    assert (await api.get(f"{JOBS}/{job_id}")).json()["payload"] == {"text": "hello"}
    await register("echo", schema={"properties": {"text": {"writeOnly": True}}})
    job = (await api.get(f"{JOBS}/{job_id}")).json()
    assert (job["payload"], job["result"]) == ({"text": "[redacted]"}, RESULT)


async def test_a_result_is_read_anew_once_its_time_in_the_cache_is_over(
    start: Any, jobs: Jobs, store: ObjectStore, counted_objects: list[str]
) -> None:
    job_id = await completed_job(jobs, store)
    async with start(cache_seconds=0.1) as api:

        async def is_read_again() -> bool:
            await api.get(f"{JOBS}/{job_id}")
            return len(counted_objects) >= 2

        await eventually(is_read_again)
