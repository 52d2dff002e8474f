"""The heartbeat against a real PostgreSQL, with consumers that hang, stop and die."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from taskflow.jobs.commands import cancel
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import Attempt, completed, released
from taskflow.jobs.upkeep import database_time, rescue
from taskflow.jobs.workers import WorkerRegistration, register_worker
from taskflow_consumer.heartbeat import Heartbeat
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

LEASE_SECONDS = 2.0
BEAT_SECONDS = 0.4

Find = Callable[[], Awaitable[Any]]


@dataclass
class Told:
    """What a heartbeat told its owner."""

    lost: list[tuple[UUID, int]] = field(default_factory=list)
    cancel_requested: list[tuple[UUID, int]] = field(default_factory=list)


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    connection = await asyncpg.connect(clean_database)
    yield Jobs(connection)
    await connection.close()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def make_heartbeat(clean_database: str, jobs: Jobs, told: Told) -> Callable[..., Heartbeat]:
    def make(database_url: str = clean_database) -> Heartbeat:
        return Heartbeat(
            worker_id=jobs.worker_id,
            database_url=database_url,
            lease_seconds=LEASE_SECONDS,
            heartbeat_seconds=BEAT_SECONDS,
            on_lost=lambda *pair: told.lost.append(pair),
            on_cancel_requested=lambda *pair: told.cancel_requested.append(pair),
        )

    return make


@pytest.fixture
async def heartbeat(make_heartbeat: Callable[..., Heartbeat]) -> AsyncIterator[Heartbeat]:
    heartbeat = make_heartbeat()
    await heartbeat.start()
    yield heartbeat
    await heartbeat.stop()


@dataclass
class Parent:
    """A consumer in a process of its own."""

    process: asyncio.subprocess.Process

    def tell(self, *message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message, default=str).encode() + b"\n")

    async def hear(self) -> list[Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        heard: list[Any] = json.loads(line)
        return heard


@pytest.fixture
async def parent(clean_database: str, jobs: Jobs) -> AsyncIterator[Parent]:
    settings = {
        "worker_id": str(jobs.worker_id),
        "database_url": clean_database,
        "lease_seconds": LEASE_SECONDS,
        "heartbeat_seconds": BEAT_SECONDS,
    }
    async with running_parent(settings) as parent:
        yield parent


@asynccontextmanager
async def running_parent(settings: dict[str, Any]) -> AsyncIterator[Parent]:
    script = Path(__file__).with_name("heartbeat_parent.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    parent = Parent(process)
    assert process.stdin is not None
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    try:
        assert await parent.hear() == ["started"]
        yield parent
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def start_job(jobs: Jobs) -> Attempt:
    claimed = await jobs.start()
    await jobs.connection.execute(
        "UPDATE jobs SET lease_expires_at = now() + make_interval(secs => $2) WHERE id = $1",
        claimed.attempt.job_id,
        LEASE_SECONDS,
    )
    return claimed.attempt


async def lease_left(jobs: Jobs, attempt: Attempt) -> float:
    left: float = await jobs.connection.fetchval(
        "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8"
        " FROM jobs WHERE id = $1",
        attempt.job_id,
    )
    return left


async def renewed(jobs: Jobs, attempt: Attempt, times: int = 2) -> None:
    """Return when the lease has been renewed that many times."""
    for _ in range(times):
        before = (await jobs.row(attempt.job_id))["lease_expires_at"]

        async def newer(before: datetime = before) -> bool:
            after: datetime = (await jobs.row(attempt.job_id))["lease_expires_at"]
            return after > before

        await eventually(newer)


async def lapsed(jobs: Jobs, attempt: Attempt) -> None:
    """Return when the lease has run out."""

    async def out() -> bool:
        return await lease_left(jobs, attempt) < 0

    await eventually(out)


def siblings(parent_pid: int) -> list[int]:
    children = Path(f"/proc/{parent_pid}/task/{parent_pid}/children").read_text()
    return [
        int(child)
        for child in children.split()
        if b"taskflow_consumer.heartbeat_process" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


async def the_sibling(parent_pid: int) -> int:
    async def find() -> list[int]:
        return siblings(parent_pid)

    (pid,) = await eventually(find)
    return pid


async def gone(pid: int) -> None:
    async def find() -> bool:
        return not Path(f"/proc/{pid}").exists()

    await eventually(find)


async def test_renews_what_is_held_until_it_is_dropped(
    heartbeat: Heartbeat, jobs: Jobs, told: Told
) -> None:
    held, dropped, never = [await start_job(jobs) for _ in range(3)]
    heartbeat.hold(held, None)
    heartbeat.hold(dropped, None)
    await renewed(jobs, dropped)

    heartbeat.drop(dropped)
    await lapsed(jobs, dropped)

    assert await lease_left(jobs, held) > 0
    assert await lease_left(jobs, never) < 0
    heartbeat.drop(dropped)
    heartbeat.drop(never)
    assert told == Told()


async def test_a_lease_outlives_a_parent_that_holds_the_interpreter(
    parent: Parent, jobs: Jobs
) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, None)
    parent.tell("block", 1.5 * LEASE_SECONDS)
    answer = asyncio.create_task(parent.hear())
    least = LEASE_SECONDS
    while not answer.done():
        least = min(least, await lease_left(jobs, attempt))
        await asyncio.sleep(0.02)

    kind, blocked_seconds = await answer
    assert kind == "blocked"
    assert blocked_seconds >= 1.5 * LEASE_SECONDS
    assert least > 0


async def test_a_stopped_parent_loses_its_lease_and_learns_of_it(
    parent: Parent, jobs: Jobs
) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, None)
    await renewed(jobs, attempt)

    parent.process.send_signal(signal.SIGSTOP)
    await lapsed(jobs, attempt)
    await rescue(jobs.connection, expired_before=await database_time(jobs.connection))
    parent.process.send_signal(signal.SIGCONT)

    assert await parent.hear() == ["lost", str(attempt.job_id), attempt.number]


async def test_a_stopped_parent_that_goes_on_in_time_keeps_its_job(
    parent: Parent, jobs: Jobs
) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, None)
    await renewed(jobs, attempt)

    parent.process.send_signal(signal.SIGSTOP)
    await lapsed(jobs, attempt)
    parent.process.send_signal(signal.SIGCONT)

    await renewed(jobs, attempt)
    assert await jobs.state(attempt.job_id) == "running"


async def test_the_sibling_of_a_killed_parent_ends(parent: Parent, jobs: Jobs) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, None)
    await renewed(jobs, attempt)
    sibling = await the_sibling(parent.process.pid)

    parent.process.kill()

    await gone(sibling)
    await lapsed(jobs, attempt)


async def test_the_leases_of_a_killed_parent_end_at_once_and_no_others(
    parent: Parent, jobs: Jobs
) -> None:
    held = [await start_job(jobs) for _ in range(3)]
    untold, another = await start_job(jobs), await start_job(jobs)
    await jobs.connection.execute(
        "UPDATE jobs SET worker_id = gen_random_uuid() WHERE id = $1", another.job_id
    )
    for attempt in held:
        parent.tell("hold", attempt.job_id, attempt.number, None)
    for attempt in held:
        await renewed(jobs, attempt)
    await jobs.connection.execute(
        "UPDATE jobs SET lease_expires_at = now() + interval '1 hour' WHERE id <> $1",
        held[0].job_id,
    )
    parent.process.kill()

    claimed = [*held, untold]
    for attempt in claimed:
        await lapsed(jobs, attempt)

    assert await lease_left(jobs, another) > 60
    now = await database_time(jobs.connection)
    rescued = await rescue(jobs.connection, expired_before=now)
    assert {job.job_id for job in rescued} == {attempt.job_id for attempt in claimed}


async def test_a_parent_that_hangs_up_and_lives_keeps_its_leases(
    heartbeat: Heartbeat, jobs: Jobs
) -> None:
    attempt = await start_job(jobs)
    heartbeat.hold(attempt, None)
    await renewed(jobs, attempt)
    await heartbeat.stop()
    assert await lease_left(jobs, attempt) > 0


async def test_the_sibling_of_a_killed_parent_ends_though_postgresql_is_frozen(
    clean_database: str, jobs: Jobs
) -> None:
    async with TcpProxy(clean_database) as proxy:
        settings = {
            "worker_id": str(jobs.worker_id),
            "database_url": proxy.url,
            "lease_seconds": 60.0,
            "heartbeat_seconds": 20.0,
        }
        proxy.freeze()
        async with running_parent(settings) as parent:

            async def connecting() -> bool:
                return proxy.accepted > 0

            await eventually(connecting)
            sibling = await the_sibling(parent.process.pid)
            parent.process.kill()
            await gone(sibling)


async def test_past_its_deadline_a_hanging_parent_is_killed(parent: Parent, jobs: Jobs) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, 1.0)
    parent.tell("block", 30)

    assert await asyncio.wait_for(parent.process.wait(), 15) == -signal.SIGKILL
    await lapsed(jobs, attempt)


async def test_a_deadline_that_is_taken_back_kills_nobody(parent: Parent, jobs: Jobs) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, 1.0)
    parent.tell("hold", attempt.job_id, attempt.number, None)
    parent.tell("block", 2.5)

    assert (await parent.hear())[0] == "blocked"
    await renewed(jobs, attempt)


async def test_the_time_in_which_a_parent_is_stopped_does_not_count(
    parent: Parent, jobs: Jobs
) -> None:
    attempt = await start_job(jobs)
    parent.tell("hold", attempt.job_id, attempt.number, 3.0)
    deadline = time.monotonic() + 3.0
    await renewed(jobs, attempt)

    async def past_the_deadline() -> bool:
        return time.monotonic() > deadline + BEAT_SECONDS

    parent.process.send_signal(signal.SIGSTOP)
    await eventually(past_the_deadline)
    parent.process.send_signal(signal.SIGCONT)

    await renewed(jobs, attempt)
    assert await asyncio.wait_for(parent.process.wait(), 15) == -signal.SIGKILL


async def test_a_wish_to_cancel_is_passed_on_once(
    heartbeat: Heartbeat, jobs: Jobs, told: Told
) -> None:
    attempt, other = await start_job(jobs), await start_job(jobs)
    heartbeat.hold(attempt, None)
    heartbeat.hold(other, None)
    await cancel(jobs.connection, TENANT, attempt.job_id)

    async def passed_on() -> bool:
        return bool(told.cancel_requested)

    await eventually(passed_on)
    await renewed(jobs, attempt, times=3)
    assert told == Told(cancel_requested=[(attempt.job_id, attempt.number)])


async def test_an_attempt_that_another_worker_has_is_lost(
    heartbeat: Heartbeat, jobs: Jobs, told: Told
) -> None:
    stolen, finished = await start_job(jobs), await start_job(jobs)
    await jobs.connection.execute(
        "UPDATE jobs SET worker_id = $2 WHERE id = $1", stolen.job_id, uuid7()
    )
    await finish(jobs.connection, [(finished, completed("1"))])
    lease = (await jobs.row(stolen.job_id))["lease_expires_at"]
    heartbeat.hold(stolen, None)
    heartbeat.hold(finished, None)

    async def both() -> bool:
        return len(told.lost) == 2

    await eventually(both)
    assert sorted(told.lost) == sorted([(stolen.job_id, 1), (finished.job_id, 1)])
    assert (await jobs.row(stolen.job_id))["lease_expires_at"] == lease


async def test_a_number_that_is_given_again_is_held_anew(
    heartbeat: Heartbeat, jobs: Jobs, told: Told
) -> None:
    first = await start_job(jobs)
    heartbeat.hold(first, None)
    await renewed(jobs, first)
    await finish(jobs.connection, [(first, released())])
    heartbeat.drop(first)
    (again,) = await jobs.claim(first.job_id, lease_seconds=LEASE_SECONDS)
    assert again.attempt == first  # type: ignore[union-attr]

    heartbeat.hold(first, None)

    await renewed(jobs, first)
    assert told == Told()


async def test_a_sibling_that_dies_is_replaced_and_no_lease_is_lost(
    heartbeat: Heartbeat, jobs: Jobs, told: Told
) -> None:
    attempt = await start_job(jobs)
    heartbeat.hold(attempt, None)
    await renewed(jobs, attempt)
    least = LEASE_SECONDS
    for _ in range(2):
        dead = await the_sibling(os.getpid())
        os.kill(dead, signal.SIGKILL)
        for _ in range(3):
            await renewed(jobs, attempt, times=1)
            least = min(least, await lease_left(jobs, attempt))
        assert await the_sibling(os.getpid()) != dead
    late = await start_job(jobs)
    heartbeat.hold(late, None)
    await renewed(jobs, late)
    assert least > 0
    assert told == Told()


async def test_a_sibling_that_is_frozen_is_replaced(heartbeat: Heartbeat, jobs: Jobs) -> None:
    attempt = await start_job(jobs)
    heartbeat.hold(attempt, None)
    await renewed(jobs, attempt)
    frozen = await the_sibling(os.getpid())

    os.kill(frozen, signal.SIGSTOP)

    await gone(frozen)
    await renewed(jobs, attempt)


async def test_a_sibling_keeps_beating_through_signals_meant_for_its_parent(
    heartbeat: Heartbeat, jobs: Jobs
) -> None:
    attempt = await start_job(jobs)
    heartbeat.hold(attempt, None)
    await renewed(jobs, attempt)
    sibling = await the_sibling(os.getpid())

    os.kill(sibling, signal.SIGTERM)
    os.kill(sibling, signal.SIGINT)

    await renewed(jobs, attempt)
    assert await the_sibling(os.getpid()) == sibling


async def test_goes_on_when_its_sessions_are_ended(
    heartbeat: Heartbeat, jobs: Jobs, told: Told
) -> None:
    attempt = await start_job(jobs)
    heartbeat.hold(attempt, None)
    for _ in range(3):
        await renewed(jobs, attempt, times=1)
        ended = await jobs.connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'taskflow-heartbeat' AND datname = current_database()"
        )
        assert ended >= 1
    await renewed(jobs, attempt)
    assert await lease_left(jobs, attempt) > 0
    assert told == Told()


@pytest.mark.parametrize("fault", ["down", "frozen"])
async def test_goes_on_after_an_outage(
    make_heartbeat: Callable[..., Heartbeat],
    clean_database: str,
    jobs: Jobs,
    told: Told,
    fault: str,
) -> None:
    async with TcpProxy(clean_database) as proxy:
        heartbeat = make_heartbeat(proxy.url)
        await heartbeat.start()
        try:
            attempt = await start_job(jobs)
            heartbeat.hold(attempt, None)
            await renewed(jobs, attempt)

            proxy.go_down() if fault == "down" else proxy.freeze()
            await lapsed(jobs, attempt)
            proxy.come_back()
            proxy.thaw()

            await renewed(jobs, attempt)
            assert told == Told()
        finally:
            await heartbeat.stop()


async def test_the_workers_row_beats_and_carries_the_watermarks(
    heartbeat: Heartbeat, jobs: Jobs
) -> None:
    worker = WorkerRegistration(jobs.worker_id, "host", os.getpid(), "1", ["default"], ["echo"], 1)
    await register_worker(jobs.connection, worker)
    newest = datetime.now(UTC)
    for age in (10, 0, 5):
        heartbeat.claimed("default.medium", newest - timedelta(seconds=age))
    heartbeat.claimed("default.high", newest)

    async def marked() -> dict[str, str] | None:
        marks: dict[str, str] = json.loads(
            await jobs.connection.fetchval("SELECT watermarks FROM workers")
        )
        return marks if len(marks) == 2 else None

    wanted = {"default.medium": newest.isoformat(), "default.high": newest.isoformat()}
    assert await eventually(marked) == wanted
    before = await jobs.connection.fetchval("SELECT heartbeat_at FROM workers")
    os.kill(await the_sibling(os.getpid()), signal.SIGKILL)

    async def beats() -> bool:
        after: datetime = await jobs.connection.fetchval("SELECT heartbeat_at FROM workers")
        return bool(after > before + timedelta(seconds=BEAT_SECONDS))

    await eventually(beats)
    assert await marked() == wanted


async def test_start_and_stop_bear_repetition(
    make_heartbeat: Callable[..., Heartbeat], jobs: Jobs
) -> None:
    heartbeat = make_heartbeat()
    await heartbeat.stop()
    await heartbeat.start()
    await heartbeat.start()
    sibling = await the_sibling(os.getpid())
    began_at = time.monotonic()
    await heartbeat.stop()
    await heartbeat.stop()
    assert time.monotonic() - began_at < 2
    assert not Path(f"/proc/{sibling}").exists()
    heartbeat.hold(await start_job(jobs), None)
    assert siblings(os.getpid()) == []


async def test_a_burst_larger_than_the_line_arrives(heartbeat: Heartbeat, jobs: Jobs) -> None:
    attempt = await start_job(jobs)
    heartbeat.hold(attempt, None)
    for _ in range(5_000):
        other = Attempt(uuid7(), 1, jobs.worker_id)
        heartbeat.hold(other, None)
        heartbeat.drop(other)
    last = await start_job(jobs)
    heartbeat.hold(last, None)
    await renewed(jobs, last)
    await renewed(jobs, attempt)


async def test_nothing_secret_is_on_the_command_line(
    heartbeat: Heartbeat, clean_database: str
) -> None:
    password = urlsplit(clean_database).password
    assert password
    sibling = await the_sibling(os.getpid())
    assert password.encode() not in Path(f"/proc/{sibling}/cmdline").read_bytes()
