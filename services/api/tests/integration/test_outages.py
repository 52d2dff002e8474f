"""Servers that are away, frozen or slow: 503 with Retry-After, never 500, and well again after."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from taskflow.jobs.finishing import finish
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.jobs.outcomes import completed, completed_in_object
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
ECHO = {"type": "echo"}


def check_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "service_unavailable"
    # Where the server would be is nobody's business.
    assert "127.0.0.1" not in answer.text
    assert "Errno" not in answer.text


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_api.persistence.RETRY_SECONDS", 0.5)
    monkeypatch.setattr("taskflow_api.submissions.ANSWER_SECONDS", 2.0)


@pytest.mark.usefixtures("hurried")
async def test_without_postgresql_it_is_a_503_and_well_again_after(
    start: Any, clean_database: str, jobs: Jobs
) -> None:
    job_id = await jobs.submit()
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url) as api:
        assert (await api.post(JOBS, json=ECHO)).status_code == 202
        assert (await api.get(f"{JOBS}/{job_id}")).status_code == 200

        proxy.go_down()

        requests = [
            api.post(JOBS, json=ECHO),
            api.post(JOBS, json=ECHO | {"unique_key": "u"}),
            api.post(JOBS, json={"type": "never-looked-up"}),
            api.get(JOBS),
            api.get(f"{JOBS}/{job_id}"),
            api.get(f"{JOBS}/stats"),
            api.get(f"{JOBS}/{job_id}/attempts"),
            api.get(f"{JOBS}/{job_id}/events"),
            api.get(f"/api/v1/logs/{job_id}"),
            api.patch(f"{JOBS}/{job_id}", json={"tags": []}),
            api.post(f"{JOBS}/{job_id}/cancel"),
            api.post(f"{JOBS}/{job_id}/retry"),
            api.delete(f"{JOBS}/{job_id}"),
            api.get("/api/v1/workers"),
            api.get("/api/v1/job-types"),
            api.get("/api/v1/job-types/echo/schema"),
            api.get("/readyz"),
        ]
        for answer in await asyncio.gather(*requests):
            check_unavailable(answer)
        assert (await api.get("/healthz")).status_code == 200
        health = await api.get("/api/v1/health")
        check_unavailable(health)
        assert health.json()["dependencies"]["database"]["status"] == "down"

        proxy.come_back()

        assert (await api.post(JOBS, json=ECHO)).status_code == 202
        assert (await api.get(f"{JOBS}/{job_id}")).status_code == 200
        assert (await api.get("/readyz")).status_code == 200


@pytest.mark.parametrize("fresh_seconds", [5.0, 0.0], ids=["fresh", "known-for-long"])
async def test_a_short_outage_is_not_noticed_by_who_submits(
    start: Any,
    clean_database: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    fresh_seconds: float,
) -> None:
    monkeypatch.setattr("taskflow_api.job_types.FRESH_SECONDS", fresh_seconds)
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url) as api:
        await api.post(JOBS, json=ECHO)
        before = proxy.accepted
        proxy.go_down()
        posts = [
            asyncio.create_task(api.post(JOBS, json=ECHO | {"unique_key": key} if key else ECHO))
            for key in (None, None, "u")
        ]

        async def tried_again() -> bool:
            return proxy.accepted >= before + 4

        await eventually(tried_again)
        proxy.come_back()
        answers = await asyncio.gather(*posts)

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 4


@pytest.mark.usefixtures("hurried")
async def test_a_frozen_postgresql_holds_nobody_for_long(start: Any, clean_database: str) -> None:
    patience = {
        "database_acquire_timeout_seconds": 0.5,
        "database_statement_timeout_seconds": 0.5,
    }
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url, **patience) as api:
        created = await api.post(JOBS, json=ECHO)
        url = created.headers["Location"]
        await api.get(url)
        await api.patch(url, json={"tags": ["a"]})

        proxy.freeze()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(
                api.post(JOBS, json=ECHO), api.get(url), api.patch(url, json={"tags": ["b"]})
            )
        for answer in answers:
            check_unavailable(answer)
        async with asyncio.timeout(3):
            assert (await api.get("/readyz")).status_code == 503

        proxy.thaw()

        async def is_well() -> bool:
            answers = [await api.post(JOBS, json=ECHO), await api.get(url)]
            return [answer.status_code for answer in answers] == [202, 200]

        await eventually(is_well)


async def test_a_frozen_postgresql_does_not_hold_up_the_end(
    start: Any, clean_database: str, jobs: Jobs
) -> None:
    patience = {
        "database_acquire_timeout_seconds": 0.3,
        "database_statement_timeout_seconds": 0.3,
    }
    url = f"{JOBS}/{await jobs.submit()}"
    async with (
        TcpProxy(clean_database) as proxy,
        asyncio.timeout(None) as end,
        start(database_url=proxy.url, **patience) as api,
    ):
        await asyncio.gather(*(api.get(url) for _ in range(10)))
        await api.patch(url, json={"tags": ["a"]})
        proxy.freeze()
        end.reschedule(asyncio.get_running_loop().time() + 3)


async def test_a_pool_that_is_used_up_is_a_503(
    start: Any, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    job_id = await jobs.submit()
    async with start(database_pool_size=1, database_acquire_timeout_seconds=0.3) as api:
        async with connection.transaction():
            await connection.fetch("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
            posts = {asyncio.create_task(api.post(f"{JOBS}/{job_id}/cancel")) for _ in range(2)}
            refused, held = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            check_unavailable(refused.pop().result())
        assert (await held.pop()).status_code == 200


async def test_a_statement_that_takes_too_long_is_a_503(
    start: Any, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    job_id = await jobs.submit()
    async with start(database_statement_timeout_seconds=0.3) as api:
        async with connection.transaction():
            await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            answers = await asyncio.gather(
                api.get(f"{JOBS}/{job_id}"), api.get(JOBS), api.post(f"{JOBS}/{job_id}/cancel")
            )
        for answer in answers:
            check_unavailable(answer)


async def test_without_rabbitmq_jobs_are_accepted_for_the_scheduler(
    start: Any, amqp_url: str, jobs: Jobs
) -> None:
    async with TcpProxy(amqp_url) as proxy:
        proxy.go_down()
        async with start(amqp_url=proxy.url) as api:
            created = await api.post(JOBS, json=ECHO)
            assert created.status_code == 202
            row = await jobs.row(UUID(created.json()["id"]))
            assert (row["state"], row["pointer_at"]) == ("queued", None)

            assert (await api.get("/readyz")).status_code == 200
            health = (await api.get("/api/v1/health")).json()
            assert health["status"] == "degraded"
            assert health["dependencies"]["broker"]["status"] == "down"
            assert "TASKFLOW_AMQP_URL" in health["dependencies"]["broker"]["hint"]
            assert "127.0.0.1" not in str(health)


async def test_a_retry_without_rabbitmq_is_left_to_the_scheduler(
    start: Any, amqp_url: str, jobs: Jobs
) -> None:
    job_id = await jobs.submit()
    await jobs.connection.execute("UPDATE jobs SET state = 'failed'")
    async with TcpProxy(amqp_url) as proxy:
        proxy.go_down()
        async with start(amqp_url=proxy.url) as api:
            assert (await api.post(f"{JOBS}/{job_id}/retry")).status_code == 202

            async def is_left() -> bool:
                return (await jobs.row(job_id))["pointer_at"] is None

            await eventually(is_left)


async def test_without_redis_the_service_is_degraded_but_ready(start: Any) -> None:
    async with start(redis_url="redis://:password@127.0.0.1:1/0") as api:
        health = await api.get("/api/v1/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        down = health.json()["dependencies"]["redis"]
        assert (down["status"], "password" in str(health.json())) == ("down", False)
        assert (await api.get("/readyz")).status_code == 200


async def test_redis_is_well_as_soon_as_it_answers_again(start: Any, redis_url: str) -> None:
    async with TcpProxy(redis_url) as proxy, start(redis_url=proxy.url) as api:
        for _ in range(3):
            health = (await api.get("/api/v1/health")).json()
            assert health["dependencies"]["redis"]["status"] == "ok", health
            # What a restart leaves behind: a connection of which this side doesn't know the end.
            proxy.cut()


async def test_health_names_every_dependency(api: httpx.AsyncClient) -> None:
    async def is_well() -> dict[str, Any] | None:
        health: dict[str, Any] = (await api.get("/api/v1/health")).json()
        return health if health["status"] == "ok" else None

    health = await eventually(is_well)
    assert set(health["dependencies"]) == {"database", "broker", "redis", "object_storage"}
    assert all(found["latency_ms"] > 0 for found in health["dependencies"].values())


async def test_who_asks_for_health_at_once_shares_an_answer(api: httpx.AsyncClient) -> None:
    asked = 60
    answers = await asyncio.gather(*(api.get("/api/v1/health") for _ in range(asked)))
    # Each look takes its own time, which the answer tells.
    assert len({answer.text for answer in answers}) < asked / 2
    probes = await asyncio.gather(*(api.get("/readyz") for _ in range(asked)))
    assert {probe.status_code for probe in probes} == {200}


@pytest.mark.parametrize("url", ["/readyz", "/api/v1/health"])
async def test_a_connection_that_is_lost_under_a_check_is_the_servers_fault(
    start: Any, clean_database: str, url: str
) -> None:
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url) as api:
        assert (await api.get(url)).status_code == 200
        proxy.answer_limit_bytes = 0
        check_unavailable(await api.get(url))


async def test_frozen_servers_do_not_hold_the_health_check(
    start: Any, clean_database: str, amqp_url: str, redis_url: str, s3: Any
) -> None:
    async with (
        TcpProxy(clean_database) as database,
        TcpProxy(amqp_url) as broker,
        TcpProxy(redis_url) as redis,
        TcpProxy(s3.endpoint) as store,
        start(
            database_url=database.url,
            amqp_url=broker.url,
            redis_url=redis.url,
            s3_endpoint=store.url,
        ) as api,
    ):

        async def is_well() -> bool:
            return bool((await api.get("/api/v1/health")).json()["status"] == "ok")

        # What freezes are connections that are in use already.
        await eventually(is_well)
        for proxy in (database, broker, redis, store):
            proxy.freeze()
        async with asyncio.timeout(3):
            health = await api.get("/api/v1/health")
        assert {found["status"] for found in health.json()["dependencies"].values()} == {"down"}
        for proxy in (database, broker, redis, store):
            proxy.thaw()


async def test_without_the_object_store_only_what_lies_there_is_a_503(
    start: Any, s3: Any, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    with_log, large, small = [await jobs.start() for _ in range(3)]
    key = f"artifacts/{TENANT}/2026-11-22/{uuid4()}/result-1.json"
    await finish(
        connection,
        [
            (with_log.attempt, completed("1")),
            (large.attempt, completed_in_object(key, 100_000)),
            (small.attempt, completed("2")),
        ],
    )
    stored = StoredLogRange(f"logs/{TENANT}/2026-11-22/{uuid4()}.jsonl", 0, 3)
    await insert_chunks(connection, [LogChunk(TENANT, with_log.attempt.job_id, 1, stored, 1)])
    async with TcpProxy(s3.endpoint) as proxy:
        proxy.go_down()
        async with start(s3_endpoint=proxy.url, s3_timeout_seconds=1) as api:
            assert (await api.post(JOBS, json=ECHO)).status_code == 202
            check_unavailable(await api.get(f"/api/v1/logs/{with_log.attempt.job_id}"))
            check_unavailable(await api.get(f"{JOBS}/{large.attempt.job_id}"))
            assert (await api.get(f"{JOBS}/{small.attempt.job_id}")).json()["result"] == 2
            assert len((await api.get(JOBS)).json()["items"]) == 4
            assert (await api.get("/readyz")).status_code == 200
            assert (await api.delete(f"{JOBS}/{with_log.attempt.job_id}")).status_code == 204


async def test_a_schema_that_is_behind_is_not_ready(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    await connection.execute("UPDATE alembic_version SET version_num = '0000'")
    try:
        answer = await api.get("/readyz")
    finally:
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
    check_unavailable(answer)
    assert "make migrate" in answer.json()["detail"]
    assert (await api.get("/readyz")).status_code == 200


async def test_waits_outlive_an_outage(start: Any, clean_database: str, jobs: Jobs) -> None:
    claimed = await jobs.start()
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url) as api:
        url = f"{JOBS}/{claimed.attempt.job_id}"
        wait = asyncio.create_task(api.get(url, headers={"Prefer": "wait=30"}))
        await asyncio.wait([wait], timeout=0.3)
        before = proxy.accepted
        proxy.go_down()

        async def has_looked() -> bool:
            return proxy.accepted > before

        await eventually(has_looked)
        await finish(jobs.connection, [(claimed.attempt, completed("1"))])
        proxy.come_back()
        answer = await wait
    assert (answer.status_code, answer.json()["state"]) == (200, "completed")
