import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database, open_database
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.relay import Relay
from taskflow_testing.jobs import Jobs


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    connection = await asyncpg.connect(clean_database)
    yield Jobs(connection)
    await connection.close()


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    database = await open_database(
        clean_database,
        application_name="taskflow-scheduler-test",
        pool_size=5,
        statement_timeout_seconds=10,
        acquire_timeout_seconds=5,
    )
    yield database
    await database.close()


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    broker = Broker(amqp_url, name="taskflow-scheduler-test")
    broker.start()
    await asyncio.wait_for(broker.wait_connected(), 20)
    yield broker
    await broker.close()


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
