"""Two ways into PostgreSQL: SQLAlchemy for reads that are composed, asyncpg for the hot writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import NullPool, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from taskflow.db.roles import DatabaseRole, connect_as

_DRIVER = "postgresql+asyncpg"


def migrating_engine(database_url: str) -> AsyncEngine:
    """An engine for one connection, without limits: a migration takes as long as it takes."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(database_url)

    return create_async_engine(f"{_DRIVER}://", async_creator=connect, poolclass=NullPool)


@asynccontextmanager
async def open_engine(
    database_url: str,
    *,
    role: DatabaseRole,
    pool_size: int,
    statement_timeout_seconds: float,
    pool_timeout_seconds: float,
) -> AsyncIterator[AsyncEngine]:
    """An engine whose pool, waiting, statements and end have their limits; times in seconds."""
    connections: WeakSet[asyncpg.Connection] = WeakSet()

    async def connect() -> asyncpg.Connection:
        # asyncpg reads the URL, as it does for the writes: SQLAlchemy knows no sslmode.
        connection = await connect_as(
            role,
            database_url,
            timeout=pool_timeout_seconds,
            # The server's own limit comes first; this one is for a server that is frozen.
            command_timeout=statement_timeout_seconds + 1,
            server_settings={
                "application_name": "taskflow",
                "statement_timeout": str(int(statement_timeout_seconds * 1000)),
                "idle_in_transaction_session_timeout": str(int(statement_timeout_seconds * 1000)),
            },
        )
        connections.add(connection)
        return connection

    engine = create_async_engine(
        f"{_DRIVER}://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_seconds,
    )
    event.listen(engine.sync_engine, "checkout", _pass_over_closed)
    try:
        yield engine
    finally:
        disposal = asyncio.create_task(engine.dispose(), name="dispose-engine")
        try:
            await asyncio.wait({disposal}, timeout=pool_timeout_seconds)
        finally:
            # SQLAlchemy waits for a silent server at each of them in turn.
            for connection in list(connections):
                connection.terminate()
            await disposal


def _pass_over_closed(connection: Any, *_: object) -> None:
    """Have a connection that the server has closed replaced, and those as old as it.

    A ping would be a round trip for each read, where this asks asyncpg what it has heard already.
    """
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError
