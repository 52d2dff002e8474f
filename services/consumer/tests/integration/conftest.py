"""What tests of the consumer's parts share."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from taskflow.db.roles import DatabaseRole
from taskflow_testing.clients import open_pool, open_store
from taskflow_testing.jobs import Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.tcp_proxy import TcpProxy

from .log_shipping import Setup, Shippers


@pytest.fixture
async def setup(clean_database: str, s3: TestBucket) -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(clean_database)
        stack.push_async_callback(connection.close)
        yield Setup(
            Jobs(connection),
            await stack.enter_async_context(open_store(s3)),
            await stack.enter_async_context(TcpProxy(s3.endpoint)),
            await stack.enter_async_context(TcpProxy(clean_database)),
        )


@pytest.fixture
async def shippers(setup: Setup, s3: TestBucket) -> AsyncIterator[Shippers]:
    async with (
        open_store(s3, endpoint=setup.s3.url, timeout_seconds=1.0) as store,
        open_pool(setup.database.url, DatabaseRole.CONSUMER) as database,
    ):
        shippers = Shippers(store, database)
        yield shippers
        setup.s3.thaw()
        for shipper in shippers.started:
            await shipper.drain(1.0)
