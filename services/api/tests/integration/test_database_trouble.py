"""PostgreSQL that answers, but with trouble of its own: full, failing, or ending our sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from taskflow_api.lifespan import OWN_POOL_SIZE
from taskflow_api.submissions import WRITERS
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
ECHO = {"type": "echo"}

POOL_SIZE = 3

SESSIONS = 2 * POOL_SIZE + WRITERS + OWN_POOL_SIZE
"""How many connections the API may hold: its requests', its batches' and its own."""


@asynccontextmanager
async def trouble(connection: asyncpg.Connection, sqlstate: str) -> AsyncIterator[None]:
    """Have every statement that touches a job fail with this SQLSTATE."""
    await connection.execute(f"""
        CREATE FUNCTION trouble() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'trouble at /var/lib/postgresql' USING ERRCODE = '{sqlstate}'; END $$;
        ALTER TABLE jobs RENAME TO jobs_away;
        CREATE VIEW jobs AS SELECT * FROM jobs_away WHERE trouble() WITH CHECK OPTION;
        GRANT ALL ON jobs TO PUBLIC;
    """)
    try:
        yield
    finally:
        await connection.execute("""
            DROP VIEW jobs;
            ALTER TABLE jobs_away RENAME TO jobs;
            DROP FUNCTION trouble();
        """)


def check_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["code"] == "service_unavailable"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_api.persistence.RETRY_SECONDS", 0.3)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "sqlstate",
    [
        pytest.param("53100", id="disk-full"),
        pytest.param("53200", id="out-of-memory"),
        pytest.param("57P05", id="idle-session"),
        pytest.param("58030", id="io-error"),
        pytest.param("58P01", id="file-missing"),
        pytest.param("25006", id="read-only"),
        pytest.param("42501", id="no-privilege"),
        pytest.param("XX000", id="internal-error"),
        pytest.param("XX001", id="data-corrupted"),
    ],
)
async def test_what_postgresql_can_not_do_now_is_a_503(
    start: Any, jobs: Jobs, connection: asyncpg.Connection, sqlstate: str
) -> None:
    job_id = await jobs.submit()
    async with start() as api, trouble(connection, sqlstate):
        url = f"{JOBS}/{job_id}"
        answers = await asyncio.gather(
            api.post(JOBS, json=ECHO),
            api.post(JOBS, json=ECHO | {"unique_key": "u"}),
            api.get(JOBS),
            api.get(url),
            api.get(f"/api/v1/logs/{job_id}"),
            api.patch(url, json={"tags": ["a"]}),
            api.post(f"{url}/cancel"),
            api.post(f"{url}/retry"),
            api.delete(url),
        )
        for answer in answers:
            check_unavailable(answer)
            assert "/var/lib" not in answer.text


@pytest.mark.usefixtures("hurried")
async def test_a_database_that_takes_no_writes_can_be_read(
    start: Any, clean_database: str, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    job_id = await jobs.submit()
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        async with start() as api:
            check_unavailable(await api.post(JOBS, json=ECHO))
            check_unavailable(await api.post(f"{JOBS}/{job_id}/cancel"))
            assert (await api.get(f"{JOBS}/{job_id}")).status_code == 200
    finally:
        await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')


async def sessions_of_the_api(connection: asyncpg.Connection) -> int:
    found = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name IN ('taskflow-api', 'taskflow')"
    )
    return int(found)


async def load(api: httpx.AsyncClient, job_id: object, stop: asyncio.Event) -> set[int]:
    """Requests of every kind, some of them given up on half way, until `stop`; their statuses."""
    statuses = set()
    while not stop.is_set():
        requests = [
            asyncio.ensure_future(request)
            for request in (
                api.post(JOBS, json=ECHO),
                api.get(f"{JOBS}/{job_id}"),
                api.get(JOBS),
                api.patch(f"{JOBS}/{job_id}", json={"tags": ["a"]}),
                api.get(f"/api/v1/logs/{job_id}"),
            )
        ]
        abandoned = [asyncio.ensure_future(api.get(JOBS)) for _ in range(3)]
        await asyncio.wait(abandoned, timeout=0.002)
        for request in abandoned:
            request.cancel()
        statuses |= {(await request).status_code for request in requests}
        await asyncio.gather(*abandoned, return_exceptions=True)
    return statuses


async def test_sessions_that_are_ended_leave_no_leak(
    start: Any, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    job_id = await jobs.submit()
    stop, ended = asyncio.Event(), 0
    async with start(database_pool_size=POOL_SIZE) as api:
        clients = [asyncio.create_task(load(api, job_id, stop)) for _ in range(4)]
        while ended < 20 * POOL_SIZE:
            ended += await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.01)
        stop.set()
        statuses = set().union(*await asyncio.gather(*clients))
        assert statuses <= {200, 202, 503}
        await all_connections_serve(api, job_id)
        assert await sessions_of_the_api(connection) <= SESSIONS


@pytest.mark.usefixtures("hurried")
async def test_a_frozen_server_leaves_no_leak(
    start: Any, clean_database: str, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    job_id = await jobs.submit()
    patience = {
        "database_pool_size": POOL_SIZE,
        "database_acquire_timeout_seconds": 0.3,
        "database_statement_timeout_seconds": 0.3,
    }
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url, **patience) as api:
        await all_connections_serve(api, job_id)
        for _ in range(3):
            stop = asyncio.Event()
            clients = [asyncio.create_task(load(api, job_id, stop)) for _ in range(4)]
            proxy.freeze()
            await asyncio.wait(clients, timeout=1.5)
            proxy.thaw()
            stop.set()
            statuses = set().union(*await asyncio.gather(*clients))
            assert statuses <= {200, 202, 503}

        async def is_well() -> bool:
            answers = [await api.post(JOBS, json=ECHO), await api.get(JOBS)]
            return [answer.status_code for answer in answers] == [202, 200]

        await eventually(is_well, timeout=5)
        await all_connections_serve(api, job_id)

        async def has_no_more() -> bool:
            return await sessions_of_the_api(connection) <= SESSIONS

        await eventually(has_no_more)


async def all_connections_serve(api: httpx.AsyncClient, job_id: object) -> None:
    """Return when as many requests as there are connections succeed at once, twice over."""

    async def all_serve() -> bool:
        patches = (
            api.patch(f"{JOBS}/{job_id}", json={"tags": ["b"]}) for _ in range(2 * POOL_SIZE)
        )
        reads = (api.get(JOBS) for _ in range(2 * POOL_SIZE))
        answers = await asyncio.gather(*patches, *reads)
        return all(answer.status_code == 200 for answer in answers)

    await eventually(all_serve, timeout=5)
