"""PostgreSQL as requests use it: in their tenant's name, or to find out whose they are.

Whatever means "it is not well now" becomes ServiceUnavailable.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from taskflow.db.pool import (
    REFUSALS,
    TRANSIENT_ERRORS,
    Connection,
    Database,
    TenantDatabase,
)
from taskflow.db.tenants import TenantConnection, begin_for
from taskflow.errors import ServiceUnavailable, TaskFlowError
from taskflow.tls import certificate_problem

SERVICE = "PostgreSQL"

_NOT_WELL: tuple[type[BaseException], ...] = (PoolTimeoutError, *TRANSIENT_ERRORS, *REFUSALS)


class Reads:
    """Connections for composed reads, each a transaction that can't write."""

    def __init__(self, engine: AsyncEngine) -> None:
        # The transaction is ours: one round trip begins it and names its tenant.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def connection(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection]:
        """One connection that sees what belongs to this tenant alone.

        Raises:
            ServiceUnavailable: none is free in time, or PostgreSQL is away or too slow.
        """
        try:
            async with (
                self._engine.connect() as connection,
                _in_name_of(tenant_id, connection),
            ):
                yield connection
        except _NOT_WELL as error:
            raise ServiceUnavailable(SERVICE, _said(error)) from error
        except DBAPIError as error:
            if not _means_away(error):
                raise
            raise ServiceUnavailable(SERVICE, _said(error)) from error


class Writes:
    """Connections for the hot writes, each statement its own transaction."""

    def __init__(self, database: TenantDatabase) -> None:
        self._database = database

    @asynccontextmanager
    async def connection(self, tenant_id: UUID) -> AsyncIterator[TenantConnection]:
        """One connection that sees and writes what belongs to this tenant alone.

        Raises:
            ServiceUnavailable: none is free in time, or PostgreSQL is away or too slow; what was
                written may or may not be committed.
        """
        try:
            async with self._database.connection(tenant_id) as connection:
                yield connection
        except (*TRANSIENT_ERRORS, *REFUSALS) as error:
            raise ServiceUnavailable(SERVICE, _said(error)) from error


class Lookups:
    """Connections in nobody's name, for what says in whose name a request comes."""

    def __init__(self, database: Database) -> None:
        """`database`: of the role API, which sees of each tenant what that takes."""
        self._database = database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection in autocommit.

        Raises:
            ServiceUnavailable: none is free in time, or PostgreSQL is away or too slow.
        """
        try:
            async with self._database.connection() as connection:
                yield connection
        except (*TRANSIENT_ERRORS, *REFUSALS) as error:
            raise ServiceUnavailable(SERVICE, _said(error)) from error


@asynccontextmanager
async def _in_name_of(tenant_id: UUID, connection: AsyncConnection) -> AsyncIterator[None]:
    session = (await connection.get_raw_connection()).driver_connection
    if not isinstance(session, asyncpg.Connection):
        raise TypeError(f"the driver is asyncpg, not {type(session).__name__}")
    try:
        await session.execute(begin_for(tenant_id, read_only=True))
        try:
            yield
        except TaskFlowError:
            # An answer as well, of a connection that is in order.
            await session.execute("COMMIT")
            raise
        await session.execute("COMMIT")
    except TaskFlowError:
        raise
    except BaseException:
        await connection.invalidate()
        raise


def _means_away(error: DBAPIError) -> bool:
    cause = error.orig.__cause__ if error.orig is not None else None
    return (
        error.connection_invalidated
        or isinstance(error, InterfaceError)
        or isinstance(cause, (*TRANSIENT_ERRORS, *REFUSALS))
    )


def _said(error: BaseException) -> str:
    return certificate_problem(error) or str(error) or type(error).__name__
