"""The real services on the real servers, and a client of their API."""

from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from taskflow_testing.database import empty_tables
from taskflow_testing.job_client import JobClient
from taskflow_testing.object_store import TestBucket
from taskflow_testing.services import NewServices, Servers, Services

HANDLERS = Path(__file__).parent / "handlers"

# A lost worker is found out in seconds, so that a test can wait for it.
QUICK_LEASES = {"lease_seconds": 3, "heartbeat_seconds": 1}


@pytest.fixture(scope="module")
def real_servers(database_url: str, amqp_url: str, redis_url: str, s3: TestBucket) -> Servers:
    """The servers, without anything between them and the services."""
    return Servers(database_url, amqp_url, redis_url, s3)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(
    real_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """An API, a consumer and two schedulers that the tests of a module share."""
    await empty_tables(real_servers.database_url)
    running = Services(real_servers, tmp_path_factory.mktemp("services"), HANDLERS, **QUICK_LEASES)
    try:
        await running.start_api()
        await running.start_consumer(handlers="trial_jobs,thumbnails.jobs", log_flush_seconds=0.5)
        await running.start_scheduler()
        await running.start_scheduler()
        yield running
    finally:
        await running.stop()


@pytest.fixture
async def jobs(services: Services) -> AsyncIterator[JobClient]:
    """Jobs through the API of the services that the tests of a module share."""
    async with services.client() as client:
        yield JobClient(client)


@pytest.fixture
async def new_services(
    clean_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NewServices]:
    """Makes services of the test's own on an empty database; they are stopped at its end."""
    new = NewServices(tmp_path_factory.mktemp, HANDLERS, **QUICK_LEASES)
    yield new
    for services in new.made:
        await services.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the services with a test that fails."""
    report = yield
    if report.failed:
        values: dict[str, Any] = getattr(item, "funcargs", {})
        for value in values.values():
            for services in value.made if isinstance(value, NewServices) else [value]:
                if isinstance(services, Services):
                    report.sections += services.logs()
    return report
