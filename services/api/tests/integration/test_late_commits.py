"""A statement that is given up may be committed later: its job is published like any other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest
from aiormq.exceptions import ConnectionInternalError
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.dispatch import FIND_COMMITTED, find_committed
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.relay import Relay
from taskflow_api.late_commits import LateCommits
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"

SOON_SECONDS = 5.0
"""Well before the rule for lost pointers would find it, which takes 45 s and a scheduler."""


@pytest.fixture
def queue() -> str:
    return f"q-{uuid4().hex[:8]}"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_api.persistence.RETRY_SECONDS", 0.3)
    monkeypatch.setattr("taskflow_api.late_commits.LOOK_SECONDS", 0.1)


_HOLD_ID = 7_083_912_114_900  # arbitrary

_HOLD = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM pg_advisory_xact_lock_shared({_HOLD_ID}); RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION hold()
"""


@asynccontextmanager
async def commits_held(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Keep whoever submits in the middle of the commit."""
    await connection.execute(_HOLD)
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_HOLD_ID})")
            yield
    finally:
        await connection.execute("DROP FUNCTION hold() CASCADE")


@asynccontextmanager
async def statements_held(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Keep whoever submits in the middle of the statement."""
    async with connection.transaction():
        await connection.execute("LOCK jobs IN SHARE MODE")
        yield


Held = Callable[[asyncpg.Connection], AbstractAsyncContextManager[None]]


async def held_back(connection: asyncpg.Connection) -> int:
    """How many submissions are kept; no other one that waits, as a vacuum of the table may."""
    found = await connection.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (relation = 'jobs'::regclass AND mode = 'RowExclusiveLock'"
        "      OR locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = $1)",
        _HOLD_ID,
    )
    return int(found)


async def looks_made(connection: asyncpg.Connection) -> int:
    """On how many sessions a look for late commits was the last thing, and is over."""
    # What a transaction has read of other sessions once, it would go on reading.
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    found = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state = 'idle' AND query = $1",
        FIND_COMMITTED,
    )
    return int(found)


async def publishes(api: httpx.AsyncClient, jobs: Jobs) -> bool:
    """Whether the API stamps what it submits now, to publish it itself."""
    answer = await api.post(JOBS, json={"type": "echo"})
    return (
        answer.status_code == 202
        and (await jobs.row(answer.json()["id"]))["pointer_at"] is not None
    )


async def messages_in(amqp_url: str, queue: str) -> list[str | None]:
    """The ids of the jobs whose pointers lie in a queue's lane, at least one of them."""

    async def first() -> aio_pika.abc.AbstractIncomingMessage | None:
        # A lane that nothing was published to isn't there, which closes the channel; one that is
        # being declared may have no process yet, which closes the connection.
        try:
            async with await aio_pika.connect(amqp_url) as connection:
                channel = await connection.channel()
                lane = await channel.get_queue(topology.lane_queue(Lane(queue, Priority.MEDIUM)))
                return await lane.get(fail=False, no_ack=True)
        except (aio_pika.exceptions.ChannelNotFoundEntity, ConnectionInternalError):
            return None

    message = await eventually(first, timeout=SOON_SECONDS)
    assert message is not None
    found = [message.message_id]
    while another := await first():
        found.append(another.message_id)
    return found


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("held", "headers"),
    [
        (commits_held, {}),
        (commits_held, {"Idempotency-Key": "k"}),
        (statements_held, {}),
        (statements_held, {"Idempotency-Key": "k"}),
    ],
)
async def test_what_outlives_its_503_is_published(
    start: Any, setting_values: dict[str, Any], jobs: Jobs, held: Held, headers: dict[str, str]
) -> None:
    queue = f"q-{uuid4().hex[:8]}"
    database_url = setting_values["database_url"]
    async with TcpProxy(database_url) as proxy, start(database_url=proxy.url) as api:
        await eventually(lambda: publishes(api, jobs))
        async with held(jobs.connection):
            post = asyncio.create_task(
                api.post(JOBS, json={"type": "echo", "queue": queue}, headers=headers)
            )
            await eventually(lambda: held_back(jobs.connection))
            proxy.go_down()
            assert (await post).status_code == 503
            proxy.come_back()
            # The first looks come before the commit, and are not the last ones.
            await eventually(lambda: looks_made(jobs.connection))
        job_id = await eventually(
            lambda: jobs.connection.fetchval("SELECT id FROM jobs WHERE queue = $1", queue)
        )
        assert await messages_in(setting_values["amqp_url"], queue) == [str(job_id)]


@pytest.mark.usefixtures("hurried")
async def test_a_commit_whose_answer_is_kept_back_is_published(
    start: Any, setting_values: dict[str, Any], jobs: Jobs, queue: str
) -> None:
    database_url = setting_values["database_url"]
    patience = {
        "database_acquire_timeout_seconds": 0.5,
        "database_statement_timeout_seconds": 0.5,
    }
    async with TcpProxy(database_url) as proxy, start(database_url=proxy.url, **patience) as api:
        await eventually(lambda: publishes(api, jobs))
        async with commits_held(jobs.connection):
            post = asyncio.create_task(api.post(JOBS, json={"type": "echo", "queue": queue}))
            await eventually(lambda: held_back(jobs.connection))
            proxy.freeze()
        job_id = await eventually(
            lambda: jobs.connection.fetchval("SELECT id FROM jobs WHERE queue = $1", queue)
        )
        assert (await post).status_code == 503
        proxy.thaw()
        assert await messages_in(setting_values["amqp_url"], queue) == [str(job_id)]


@pytest.fixture
async def late_commits(
    setting_values: dict[str, Any], amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LateCommits]:
    monkeypatch.setattr("taskflow_api.late_commits.LOOK_SECONDS", 0.01)
    broker = Broker(amqp_url, name="taskflow-test")
    async with open_pool(setting_values["database_url"], DatabaseRole.API) as database:
        late_commits = LateCommits(
            database, Relay(Publisher(broker, timeout_seconds=1.0), database)
        )
        yield late_commits
        await late_commits.close()


async def test_what_is_never_committed_is_forgotten(
    late_commits: LateCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.late_commits.LATEST_SECONDS", 0.1)
    for _ in range(2):
        late_commits.watch([uuid7()])
        assert late_commits.in_doubt == 1

        async def is_forgotten() -> bool:
            return late_commits.in_doubt == 0

        await eventually(is_forgotten, timeout=SOON_SECONDS)


async def test_a_look_that_breaks_is_said_and_the_next_jobs_are_looked_for(
    late_commits: LateCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.late_commits.LATEST_SECONDS", 0.0)

    async def is_forgotten() -> bool:
        return late_commits.in_doubt == 0

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr("taskflow.jobs.dispatch.FIND_COMMITTED", "SELECT FROM no_table")
        late_commits.watch([uuid7()])
        await eventually(is_forgotten, timeout=SOON_SECONDS)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "late_commits_broke"
    ]
    late_commits.watch([uuid7()])
    await eventually(is_forgotten, timeout=SOON_SECONDS)


async def test_no_more_jobs_are_in_doubt_than_memory_is_meant_for(
    late_commits: LateCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.late_commits.MAX_JOBS", 3)
    late_commits.watch([uuid7(), uuid7()])
    late_commits.watch([uuid7(), uuid7()])
    assert late_commits.in_doubt == 2


async def test_only_what_waits_for_its_first_start_is_published(jobs: Jobs) -> None:
    waiting, scheduled = await jobs.submit(), await jobs.submit(delay_seconds=60)
    started = (await jobs.start()).attempt.job_id

    found = await find_committed(jobs.connection, [waiting, scheduled, started, uuid7()])

    pointer_at = (await jobs.row(waiting))["pointer_at"]
    lane = Lane("default", Priority.MEDIUM)
    assert found == {
        waiting: Pointer(waiting, lane, "echo", pointer_at),
        scheduled: None,
        started: None,
    }
