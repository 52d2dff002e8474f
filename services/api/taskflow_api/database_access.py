"""PostgreSQL as requests use it: whatever means "it is not well now" becomes ServiceUnavailable."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS, Connection, Database
from taskflow.errors import ServiceUnavailable

SERVICE = "PostgreSQL"

_NOT_WELL: tuple[type[BaseException], ...] = (PoolTimeoutError, *TRANSIENT_ERRORS, *REFUSALS)


class Reads:
    """Connections for composed reads, each statement its own transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """One connection.

        Raises:
            ServiceUnavailable: none is free in time, or PostgreSQL is away or too slow.
        """
        try:
            async with self._engine.connect() as connection:
                yield connection
        except _NOT_WELL as error:
            raise ServiceUnavailable(SERVICE, _said(error)) from error
        except DBAPIError as error:
            if not _means_away(error):
                raise
            raise ServiceUnavailable(SERVICE, _said(error)) from error


class Writes:
    """Connections for the hot writes, in autocommit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection.

        Raises:
            ServiceUnavailable: none is free in time, or PostgreSQL is away or too slow; what was
                written may or may not be committed.
        """
        try:
            async with self._database.connection() as connection:
                yield connection
        except (*TRANSIENT_ERRORS, *REFUSALS) as error:
            raise ServiceUnavailable(SERVICE, _said(error)) from error


def _means_away(error: DBAPIError) -> bool:
    cause = error.orig.__cause__ if error.orig is not None else None
    return (
        error.connection_invalidated
        or isinstance(error, InterfaceError)
        or isinstance(cause, (*TRANSIENT_ERRORS, *REFUSALS))
    )


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
