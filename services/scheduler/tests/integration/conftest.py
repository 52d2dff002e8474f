from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.relay import Relay
from taskflow_testing.clients import connected_broker, open_pool
from taskflow_testing.jobs import Jobs


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    connection = await asyncpg.connect(clean_database)
    yield Jobs(connection)
    await connection.close()


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    patient = {"statement_timeout_seconds": 10.0, "acquire_timeout_seconds": 5.0}
    async with open_pool(
        clean_database, DatabaseRole.SCHEDULER, pool_size=5, **patient
    ) as database:
        yield database


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with connected_broker(amqp_url) as broker:
        yield broker


@pytest.fixture
def publisher(broker: Broker) -> Publisher:
    return Publisher(broker, timeout_seconds=5)


@pytest.fixture
async def relay(publisher: Publisher, database: Database) -> AsyncIterator[Relay]:
    relay = Relay(publisher, database)
    relay.start()
    yield relay
    await relay.stop(5)


@pytest.fixture
def lane() -> Lane:
    """A lane of the test's own: the virtual host outlives it."""
    return Lane(f"q{uuid4().hex[:12]}", Priority.MEDIUM)
