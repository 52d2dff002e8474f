"""The scheduler as a process."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from taskflow.broker.connection import Broker
from taskflow.jobs.lanes import Lane
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.leadership import SILENCE_SECONDS, YIELD_AFTER_SECONDS
from taskflow_testing.jobs import Jobs
from taskflow_testing.servers import TestServers
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

pytestmark = pytest.mark.broker

LEASE_SECONDS = 3.0
BEAT_SECONDS = 1.0


@pytest.fixture
def settings(clean_database: str, amqp_url: str) -> dict[str, str]:
    return {
        "TASKFLOW_DATABASE_URL": clean_database,
        "TASKFLOW_AMQP_URL": amqp_url,
        "TASKFLOW_S3_ENDPOINT": "http://127.0.0.1:1",
        "TASKFLOW_S3_ACCESS_KEY": "unused",
        "TASKFLOW_S3_SECRET_KEY": "unused",
        "TASKFLOW_SCHEDULER_TICK_SECONDS": "0.2",
        "TASKFLOW_LEASE_SECONDS": str(LEASE_SECONDS),
        "TASKFLOW_HEARTBEAT_SECONDS": str(BEAT_SECONDS),
    }


@asynccontextmanager
async def scheduler(
    settings: dict[str, str], folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    inherited = {key: value for key, value in os.environ.items() if "TASKFLOW" not in key}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "taskflow_scheduler",
        cwd=folder,
        env=inherited | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def logged(process: asyncio.subprocess.Process, event: str) -> None:
    """Return when the process has logged an event."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while event.encode() not in (line := await process.stdout.readline()):
            assert line, f"the process ended before it logged {event}"


async def make_undispatched(jobs: Jobs, lane: Lane) -> UUID:
    job_id = await jobs.submit(queue=lane.queue)
    await jobs.connection.execute("UPDATE jobs SET pointer_at = NULL WHERE id = $1", job_id)
    return job_id


async def until_dispatched(jobs: Jobs, job_id: UUID, timeout: float = 15.0) -> None:
    async def dispatched() -> bool:
        return (await jobs.row(job_id))["pointer_at"] is not None

    await eventually(dispatched, timeout=timeout)


@asynccontextmanager
async def leader_behind(
    proxy: TcpProxy, settings: dict[str, str], jobs: Jobs, lane: Lane, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A scheduler that leads, and reaches the broker by a proxy."""
    async with scheduler(settings | {"TASKFLOW_AMQP_URL": proxy.url}, folder) as leader:
        await until_dispatched(jobs, await make_undispatched(jobs, lane))
        yield leader


async def test_a_setting_that_is_missing_is_named_in_one_line(
    settings: dict[str, str], tmp_path: Path
) -> None:
    del settings["TASKFLOW_AMQP_URL"]
    async with scheduler(settings, tmp_path) as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith("taskflow: TASKFLOW_AMQP_URL: is not set")
    assert errors.count(b"\n") == 1


async def test_a_database_without_migrations_is_said_in_one_line(
    settings: dict[str, str], servers: TestServers, tmp_path: Path
) -> None:
    settings["TASKFLOW_DATABASE_URL"] = servers.database_url
    async with scheduler(settings, tmp_path) as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"make migrate" in errors
    assert errors.count(b"\n") == 1


async def test_a_signal_ends_it_at_once_and_well(
    settings: dict[str, str], jobs: Jobs, lane: Lane, tmp_path: Path
) -> None:
    async with scheduler(settings, tmp_path) as process:
        job_id = await make_undispatched(jobs, lane)
        await until_dispatched(jobs, job_id)
        began_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        assert time.monotonic() - began_at < 5


async def test_a_stopping_leader_hands_the_lead_over_before_its_rounds_end(
    settings: dict[str, str], amqp_url: str, jobs: Jobs, lane: Lane, tmp_path: Path
) -> None:
    async with (
        TcpProxy(amqp_url) as proxy,
        leader_behind(proxy, settings, jobs, lane, tmp_path) as leader,
        scheduler(settings, tmp_path) as standby,
    ):
        await logged(standby, "broker_connected")
        # A round that waits for confirms which don't come, for ten seconds.
        proxy.freeze()
        await until_dispatched(jobs, await make_undispatched(jobs, lane))
        leader.send_signal(signal.SIGTERM)
        began_at = time.monotonic()
        await logged(standby, "leadership_won")
        leader.send_signal(signal.SIGTERM)
        assert await leader.wait() == 0
        assert time.monotonic() - began_at < 7
        proxy.thaw()


async def test_a_leader_that_loses_the_broker_alone_is_replaced(
    settings: dict[str, str], amqp_url: str, jobs: Jobs, lane: Lane, tmp_path: Path
) -> None:
    async with (
        TcpProxy(amqp_url) as proxy,
        leader_behind(proxy, settings, jobs, lane, tmp_path) as leader,
        scheduler(settings, tmp_path) as standby,
    ):
        await logged(standby, "scheduler_started")
        proxy.go_down()
        second = await make_undispatched(jobs, lane)
        await until_dispatched(jobs, second, timeout=YIELD_AFTER_SECONDS + 10)
        await logged(leader, "leadership_yielded")


async def test_it_starts_and_ends_without_its_servers(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings["TASKFLOW_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    settings["TASKFLOW_AMQP_URL"] = "amqp://nobody@127.0.0.1:1/none"
    async with scheduler(settings, tmp_path) as process:
        await logged(process, "database_unreachable")
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_an_orphan_is_sent_again(
    settings: dict[str, str], jobs: Jobs, broker: Broker, lane: Lane, tmp_path: Path
) -> None:
    async with scheduler(settings, tmp_path) as process:
        await logged(process, "leadership_won")
        claimed = await jobs.start(queue=lane.queue)
        job_id = claimed.attempt.job_id
        await jobs.connection.execute(
            "UPDATE jobs SET lease_expires_at = now() + make_interval(secs => $2) WHERE id = $1",
            job_id,
            LEASE_SECONDS,
        )
        depths = LaneDepths(broker)

        async def arrived() -> bool:
            return await depths.look(lane) > 0

        began_at = time.monotonic()
        await eventually(arrived)
        took = time.monotonic() - began_at
        await depths.close()
    assert took + 0.2 >= LEASE_SECONDS
    assert took <= LEASE_SECONDS + 2.5
    assert await jobs.history(job_id) == [
        ("submit", None, "queued"),
        ("claim", "queued", "running"),
        ("lease_lost", "running", "retrying"),
    ]


async def test_a_standby_takes_over_from_a_frozen_leader(
    settings: dict[str, str], jobs: Jobs, lane: Lane, tmp_path: Path
) -> None:
    async with scheduler(settings, tmp_path) as leader:
        await logged(leader, "leadership_won")
        async with scheduler(settings, tmp_path) as standby:
            await logged(standby, "scheduler_started")
            leader.send_signal(signal.SIGSTOP)
            first = await make_undispatched(jobs, lane)
            await until_dispatched(jobs, first, timeout=SILENCE_SECONDS + 5)

            leader.send_signal(signal.SIGCONT)
            await logged(leader, "leadership_session_lost")
            second = await make_undispatched(jobs, lane)
            await until_dispatched(jobs, second)

            standby.send_signal(signal.SIGTERM)
            await standby.communicate()
            assert standby.returncode == 0
            await logged(leader, "leadership_won")
            third = await make_undispatched(jobs, lane)
            await until_dispatched(jobs, third)
