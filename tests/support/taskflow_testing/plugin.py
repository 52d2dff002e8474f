"""pytest plugin: real servers; a database, virtual host and bucket for each worker."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from taskflow_testing import broker, database, object_store, redis_database
from taskflow_testing.errors import MigrationFailed, NoTestServers
from taskflow_testing.object_store import TestBucket
from taskflow_testing.servers import TestServers, find_servers, require_reachable

Result = TypeVar("Result")


@pytest.hookimpl(tryfirst=True)  # So that --hypothesis-profile still has its way.
def pytest_configure() -> None:
    """Let examples of hypothesis take their time: on a busy machine any of them may be held up."""
    settings.register_profile("patient", settings.default, deadline=None)
    settings.load_profile("patient")


@pytest.fixture(scope="session")
def checkout(pytestconfig: pytest.Config) -> Path:
    """The root of the checkout: the folder with the migrations."""
    for folder in (pytestconfig.rootpath, *pytestconfig.rootpath.parents, *Path(__file__).parents):
        if (folder / "migrations" / "alembic.ini").exists():
            return folder
    pytest.fail(f"no migrations/alembic.ini above {pytestconfig.rootpath}", pytrace=False)


@pytest.fixture(scope="session")
def servers(checkout: Path) -> TestServers:
    """The servers that run for tests."""
    try:
        return find_servers(checkout)
    except NoTestServers as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def database_url(servers: TestServers, checkout: Path) -> Iterator[str]:
    """A migrated database of this worker's own (`postgresql://...`), dropped at the end."""
    _require("PostgreSQL", servers.database_url)
    try:
        url = _run(database.create_database(servers.database_url, checkout))
    except MigrationFailed as error:
        pytest.fail(str(error), pytrace=False)
    yield url
    _run(database.drop_database(servers.database_url, url))


@pytest.fixture
def clean_database(database_url: str) -> str:
    """The worker's database with every table empty; its URL."""
    _run(database.empty_tables(database_url))
    return database_url


@pytest.fixture(scope="session")
def amqp_url(servers: TestServers) -> Iterator[str]:
    """A virtual host of this worker's own (`amqp://...`), deleted at the end."""
    _require("RabbitMQ", servers.rabbitmq_management_url)
    url = broker.create_virtual_host(servers.rabbitmq_management_url, servers.amqp_url)
    yield url
    broker.delete_virtual_host(servers.rabbitmq_management_url, url)


@pytest.fixture(scope="session")
def s3(servers: TestServers) -> Iterator[TestBucket]:
    """An empty bucket of this worker's own, emptied and deleted at the end."""
    _require("S3", servers.s3_endpoint)
    bucket = object_store.create_bucket(
        servers.s3_endpoint, servers.s3_access_key, servers.s3_secret_key
    )
    yield bucket
    object_store.delete_bucket(bucket)


@pytest.fixture(scope="session")
def redis_url(servers: TestServers) -> Iterator[str]:
    """A numbered Redis database of this worker's own, emptied at the end."""
    _require("Redis", servers.redis_url)
    url = redis_database.claim_database(servers.redis_url)
    yield url
    redis_database.release_database(url)


def _require(server: str, url: str) -> None:
    try:
        require_reachable(server, url)
    except NoTestServers as error:
        pytest.fail(str(error), pytrace=False)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, apart from whatever loop the tests use."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, work).result()
