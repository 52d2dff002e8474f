"""How a consumer ends: in peace, at once, and with everything away."""

import asyncio
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from taskflow_testing.job_client import Job, JobClient
from taskflow_testing.services import ServiceProcess, Services
from taskflow_testing.waiting import eventually

from .conftest import Proxies

SECONDS_AFTER_THE_GRACE = 15.0


async def running(jobs: JobClient, marks: Path, *types: str, seconds: float = 60.0) -> list[Job]:
    """Jobs of these types that have begun."""
    submitted = [
        await jobs.submit(name, {"path": str(marks), "seconds": seconds}) for name in types
    ]
    for job in submitted:
        await jobs.reaches(job, "running")

    async def all_have_begun() -> bool:
        return marks.exists() and len(marks.read_text().splitlines()) == len(types)

    await eventually(all_have_begun)
    return submitted


async def ends_within(process: ServiceProcess, seconds: float) -> tuple[int, float]:
    started = time.monotonic()
    code = await process.wait(seconds)
    return code, time.monotonic() - started


ALL_KINDS = ("fault.waits", "fault.thread", "fault.process")


async def test_a_second_sigterm_hands_everything_back_at_once(
    services: Services, tmp_path: Path
) -> None:
    consumer = await services.start_consumer(handlers="fault_jobs", shutdown_grace_seconds=600)
    async with services.client() as http:
        jobs = JobClient(http)
        submitted = await running(jobs, tmp_path / "marks", *ALL_KINDS)
        consumer.signal(signal.SIGTERM)

        async def drains() -> bool:
            return bool(consumer.events("consumer_stopping"))

        await eventually(drains)
        consumer.signal(signal.SIGTERM)
        code, seconds = await ends_within(consumer, 20)
        assert code == 0
        # The thread that never looks gets three to clean up; the rest is a slow machine's.
        assert seconds < 10
        for job in submitted:
            found = await jobs.get(job)
            assert (found["state"], found["attempt"]) == ("queued", 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["down", "frozen"])
async def test_with_every_server_away_it_ends_within_15_s_of_its_grace(
    services: Services,
    proxies: Proxies,
    through_proxies: dict[str, Any],
    tmp_path: Path,
    how: str,
) -> None:
    grace = 2.0
    consumer = await services.start_consumer(
        **through_proxies,
        handlers="fault_jobs",
        shutdown_grace_seconds=grace,
        log_spool_dir=tmp_path / "spool",
        lease_seconds=60,
    )
    every = (proxies.database, proxies.broker, proxies.s3)
    async with services.client() as http:
        await running(JobClient(http), tmp_path / "marks", *ALL_KINDS, "fault.lines")
        for proxy in every:
            if how == "down":
                proxy.go_down()
            else:
                proxy.freeze()
        consumer.signal(signal.SIGTERM)
        code, seconds = await ends_within(consumer, 120)
    for proxy in every:
        proxy.thaw()
    assert code == 0
    assert seconds < grace + SECONDS_AFTER_THE_GRACE
    assert consumer.events("outcomes_not_recorded")
    # What was logged waits for the next process.
    assert list((tmp_path / "spool").rglob("*.lines"))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_sigterms_under_load_use_up_no_attempt(services: Services, tmp_path: Path) -> None:
    await services.start_scheduler()
    consumers = [await start(services), await start(services)]
    async with services.client() as http:
        jobs = JobClient(http)
        payload = {"path": str(tmp_path / "marks"), "seconds": 1.0}
        submitted = []
        for turn in range(4):
            consumers.append(await start(services))
            submitted += await asyncio.gather(
                *(jobs.submit(ALL_KINDS[number % 2], payload) for number in range(24))
            )
            leaving = consumers[turn]
            await eventually(partial(is_at_work, leaving))
            assert await leaving.terminate() == 0
        for job in submitted:
            found = await jobs.completes(job, timeout=60)
            assert found["attempt"] == 1
    connection = await asyncpg.connect(services.servers.database_url)
    try:
        events = await connection.fetch("SELECT event, count(*) FROM job_events GROUP BY 1")
    finally:
        await connection.close()
    counts = {row["event"]: row["count"] for row in events}
    assert counts["succeed"] == len(submitted)
    assert "lease_lost" not in counts
    assert "fail" not in counts
    assert counts.get("release", 0) > 0


async def is_at_work(consumer: ServiceProcess) -> bool:
    """Whether it has just begun jobs that take a second."""
    begun, ended = (len(consumer.events(name)) for name in ("job_started", "job_completed"))
    return begun > ended


async def start(services: Services) -> ServiceProcess:
    return await services.start_consumer(
        handlers="fault_jobs",
        concurrency=8,
        shutdown_grace_seconds=0.1,
        log_level="DEBUG",  # at which beginnings are told
    )
