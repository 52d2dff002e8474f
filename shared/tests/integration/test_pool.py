"""A session that falls silent must not hide that whoever works on it is to end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from uuid_utils.compat import uuid7

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Connection, Database
from taskflow.db.roles import DatabaseRole
from taskflow.db.tenants import DEFAULT_TENANT_ID, Session, TenantConnection, begin_for
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.relay import Dispatch, Relay
from taskflow_testing.clients import open_pool
from taskflow_testing.tcp_proxy import TcpProxy


@pytest.fixture
async def proxy(clean_database: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(clean_database) as proxy:
        yield proxy


@pytest.fixture
async def database(proxy: TcpProxy) -> AsyncIterator[Database]:
    impatient = {"statement_timeout_seconds": 0.3, "acquire_timeout_seconds": 0.3}
    async with open_pool(proxy.url, DatabaseRole.CONSUMER, **impatient) as database:
        yield database


Work = Callable[[Session, asyncio.Event], Awaitable[None]]


async def in_autocommit(connection: Connection, silence: asyncio.Event) -> None:
    silence.set()
    await connection.execute("SELECT pg_sleep(0.2)")


async def in_a_transaction(connection: Connection, silence: asyncio.Event) -> None:
    async with connection.transaction():
        await in_autocommit(connection, silence)


async def in_a_tenants_name(connection: Session, silence: asyncio.Event) -> None:
    tenant = TenantConnection(connection, begin_for(DEFAULT_TENANT_ID))
    await in_a_transaction(tenant, silence)


@pytest.mark.parametrize("work", [in_autocommit, in_a_transaction, in_a_tenants_name])
async def test_who_is_cancelled_while_postgresql_is_silent_ends_as_cancelled(
    database: Database, proxy: TcpProxy, work: Work
) -> None:
    silence = asyncio.Event()

    async def use() -> None:
        async with database.connection() as connection:
            await work(connection, silence)

    using = asyncio.create_task(use())
    await silence.wait()
    proxy.freeze()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using


async def test_a_relay_stops_while_postgresql_is_silent(
    database: Database, proxy: TcpProxy, lane: Lane
) -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT 1")
    broker = Broker("amqp://nobody:nothing@127.0.0.1:1/", name="taskflow-test")
    relay = Relay(Publisher(broker, timeout_seconds=1.0), database)
    relay.start()
    proxy.freeze()
    # Without a broker it is to be written down, which is under way when the relay stops.
    relay.send([Dispatch(Pointer(uuid7(), lane, "echo", datetime.now(UTC)))])
    await asyncio.wait_for(relay.stop(0.1), 5)
