"""Workers that die, and servers that go away and come back."""

import dataclasses
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import NewServices, Servers, Services
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

from .conftest import HANDLERS, QUICK_LEASES

RESCUE_SECONDS = 20.0


@pytest.fixture
async def broker_proxy(real_servers: Servers) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(real_servers.amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def s3_proxy(real_servers: Servers) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(real_servers.s3.endpoint) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api_alone(
    real_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """An API that stays up."""
    folder = tmp_path_factory.mktemp("services")
    services = Services(real_servers, folder, HANDLERS, **QUICK_LEASES)
    try:
        await services.start_api()
        yield services
    finally:
        await services.stop()


@pytest.fixture
async def services(api_alone: Services, clean_database: str) -> AsyncIterator[Services]:
    """That API and an empty database; what a test starts beside it is stopped at its end."""
    yield api_alone
    await api_alone.stop(but_first=1)


async def test_a_job_whose_worker_is_killed_runs_again(jobs: JobClient, services: Services) -> None:
    await services.start_scheduler()
    victim = await services.start_consumer(handlers="trial_jobs", log_flush_seconds=0.2)
    job = await jobs.submit("trial.waits", {"seconds": 3})
    # The log of a running attempt is there up to the last flush.
    await jobs.log_has(job, "number=1")
    victim.kill()
    killed_at = datetime.now(UTC)
    await services.start_consumer(handlers="trial_jobs")
    job = await jobs.completes(job, timeout=RESCUE_SECONDS + 10)
    assert job["attempt"] == 2
    first, second = await jobs.attempts(job)
    assert (first["outcome"], second["outcome"]) == ("lost", "completed")
    assert first["error"]["type"] == "worker_lost"
    waited = datetime.fromisoformat(second["started_at"]) - killed_at
    assert waited.total_seconds() < RESCUE_SECONDS
    log = await jobs.log_has(job, "number=2")
    assert "number=1" in log


async def test_a_worker_that_is_told_to_stop_hands_its_jobs_back(
    jobs: JobClient, services: Services
) -> None:
    leaving = await services.start_consumer(handlers="trial_jobs", shutdown_grace_seconds=0.5)
    job = await jobs.submit("trial.waits", {"seconds": 60})
    short = await jobs.submit("trial.waits", {"seconds": 0.3})
    for each in (job, short):
        await jobs.reaches(each, "running", "completed")
    assert await leaving.terminate() == 0
    # What ends within the grace time has ended; the rest is as if it had not begun.
    assert (await jobs.get(short))["state"] == "completed"
    assert ((await jobs.get(job))["state"], (await jobs.get(job))["attempt"]) == ("queued", 0)
    assert await jobs.attempts(job) == []
    await services.start_consumer(handlers="trial_jobs", shutdown_grace_seconds=0)
    job = await jobs.reaches(job, "running")
    assert job["attempt"] == 1
    events = [event["event"] for event in await jobs.events(job)]
    assert events == ["submit", "claim", "release", "claim"]
    workers = (await jobs.http.get("/api/v1/workers")).json()["items"]
    assert [worker["state"] for worker in workers] == ["running", "stopped"]


async def test_a_frozen_worker_that_wakes_up_changes_nothing(
    jobs: JobClient, services: Services
) -> None:
    await services.start_scheduler()
    frozen = await services.start_consumer(handlers="trial_jobs")
    job = await jobs.submit("trial.waits", {"seconds": 2})
    await jobs.reaches(job, "running")
    frozen.signal(signal.SIGSTOP)
    try:
        await services.start_consumer(handlers="trial_jobs")
        # Its pointer may be dealt to the frozen one, where it lies until the broker gives that up.
        job = await jobs.completes(job, timeout=90)
    finally:
        frozen.signal(signal.SIGCONT)

    async def has_noticed() -> Any:
        return frozen.events("job_lost") or frozen.events("job_outcome_refused")

    await eventually(has_noticed)
    assert await jobs.get(job) == job
    assert [each["outcome"] for each in await jobs.attempts(job)] == ["lost", "completed"]


async def test_submissions_go_on_while_the_broker_is_away(
    broker_proxy: TcpProxy, real_servers: Servers, new_services: NewServices
) -> None:
    services = new_services(dataclasses.replace(real_servers, amqp_url=broker_proxy.url))
    await services.start_api()
    await services.start_consumer()
    await services.start_scheduler()
    async with services.client() as client:
        jobs = JobClient(client)
        await jobs.completes(await jobs.submit("echo", {"text": "before"}))
        broker_proxy.go_down()
        during = [await jobs.submit("echo", {"text": f"during {number}"}) for number in range(5)]
        assert {(await jobs.get(job))["state"] for job in during} == {"queued"}
        broker_proxy.come_back()
        for job in during:
            done = await jobs.completes(job, timeout=60)
            assert done["attempt"] == 1


async def test_services_start_without_the_broker(
    broker_proxy: TcpProxy, real_servers: Servers, new_services: NewServices
) -> None:
    broker_proxy.go_down()
    services = new_services(dataclasses.replace(real_servers, amqp_url=broker_proxy.url))
    await services.start_consumer()
    await services.start_scheduler()
    await services.start_api(wait_for="/healthz")
    async with services.client() as client:
        jobs = JobClient(client)
        job = await jobs.submit("echo", {"text": "patience"})
        broker_proxy.come_back()
        await jobs.completes(job, timeout=60)


async def test_jobs_complete_without_the_object_store_and_their_logs_come_later(
    s3_proxy: TcpProxy, real_servers: Servers, new_services: NewServices
) -> None:
    bucket = dataclasses.replace(real_servers.s3, endpoint=s3_proxy.url)
    services = new_services(dataclasses.replace(real_servers, s3=bucket))
    await services.start_api()
    await services.start_consumer(handlers="trial_jobs", s3_timeout_seconds=1)
    async with services.client() as client:
        jobs = JobClient(client)
        s3_proxy.go_down()
        job = await jobs.completes(await jobs.submit("trial.logs"))
        answer = await client.get(job["links"]["logs"])
        assert answer.status_code == 200, answer.text
        assert "by a thread" not in answer.text
        s3_proxy.come_back()
        await jobs.log_has(job, "by a thread", timeout=30)


async def test_another_scheduler_takes_over(jobs: JobClient, services: Services) -> None:
    await services.start_consumer()
    schedulers = [await services.start_scheduler() for _ in range(2)]

    async def find_leader() -> Any:
        return next((each for each in schedulers if each.events("leadership_won")), None)

    leader = await eventually(find_leader)
    leader.kill()
    await jobs.completes(await jobs.submit("echo", {"text": "x"}, delay_seconds=1))
    assert [bool(each.events("leadership_won")) for each in schedulers] == [True, True]
