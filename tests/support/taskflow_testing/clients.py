"""Our own clients, set up for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskflow.broker.connection import Broker
from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.object_store import ObjectStore
from taskflow_testing.object_store import TestBucket

_CONNECT_SECONDS = 20.0


@asynccontextmanager
async def open_store(
    s3: TestBucket, *, endpoint: str | None = None, **changes: Any
) -> AsyncIterator[ObjectStore]:
    """The object store on a test bucket, by way of another `endpoint` if need be."""
    settings: dict[str, Any] = {
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
        "bucket": s3.bucket,
        "region": "us-east-1",
        "timeout_seconds": 5.0,
    } | changes
    store = ObjectStore(endpoint or s3.endpoint, **settings)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_pool(
    database_url: str, role: DatabaseRole, **changes: Any
) -> AsyncIterator[Database]:
    """A pool of few connections and little patience."""
    settings: dict[str, Any] = {
        "role": role,
        "application_name": "taskflow-test",
        "pool_size": 3,
        "statement_timeout_seconds": 2.0,
        "acquire_timeout_seconds": 2.0,
    } | changes
    database = await open_database(database_url, **settings)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def connected_broker(amqp_url: str) -> AsyncIterator[Broker]:
    """A broker that is connected, and has declared the topology."""
    broker = Broker(amqp_url, name="taskflow-test")
    broker.start()
    try:
        await asyncio.wait_for(broker.wait_connected(), _CONNECT_SECONDS)
        yield broker
    finally:
        await broker.close()
