"""Consumers as processes on real servers, with proxies to take the servers away."""

from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from taskflow_testing.object_store import TestBucket
from taskflow_testing.services import Servers, Services
from taskflow_testing.tcp_proxy import TcpProxy

HANDLERS = Path(__file__).parent / "handlers"

# A lost worker is found out in seconds, so that a test can wait for it.
QUICK_LEASES = {"lease_seconds": 3, "heartbeat_seconds": 1}


@dataclass(frozen=True)
class Proxies:
    """A way to each server that can be closed."""

    database: TcpProxy
    broker: TcpProxy
    s3: TcpProxy


@pytest.fixture(scope="module")
def servers_of_tests(database_url: str, amqp_url: str, redis_url: str, s3: TestBucket) -> Servers:
    """The servers, without anything between them and the services."""
    return Servers(database_url, amqp_url, redis_url, s3)


@pytest.fixture
async def proxies(servers_of_tests: Servers) -> AsyncIterator[Proxies]:
    """Proxies before PostgreSQL, RabbitMQ and S3; open at the end, so that all can be stopped."""
    async with AsyncExitStack() as stack:
        proxies = Proxies(
            await stack.enter_async_context(TcpProxy(servers_of_tests.database_url)),
            await stack.enter_async_context(TcpProxy(servers_of_tests.amqp_url)),
            await stack.enter_async_context(TcpProxy(servers_of_tests.s3.endpoint)),
        )
        yield proxies


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(
    servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    """An API that the tests of a module share: no fault is its own."""
    folder = tmp_path_factory.mktemp("services")
    services = Services(servers_of_tests, folder, HANDLERS, **QUICK_LEASES)
    try:
        await services.start_api()
        yield services
    finally:
        await services.stop()


@pytest.fixture
async def services(api: Services, clean_database: str) -> AsyncIterator[Services]:
    """The API and an empty database; what a test starts beside it is stopped at its end."""
    yield api
    await api.stop(but_first=1)


@pytest.fixture
def through_proxies(servers_of_tests: Servers, proxies: Proxies) -> dict[str, Any]:
    """Settings of a consumer that reaches every server by its proxy."""
    return {
        "database_url": proxies.database.url,
        "amqp_url": proxies.broker.url,
        "s3_endpoint": proxies.s3.url,
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the services with a test that fails."""
    report = yield
    values: dict[str, Any] = getattr(item, "funcargs", {})
    if report.failed and isinstance(services := values.get("services"), Services):
        report.sections += services.logs()
    return report
