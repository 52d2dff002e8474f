"""Connections in the name of tenants: what belongs to others is not there for them.

They are set for one transaction, never for a session: a pooler would hand a session on to somebody
else. PostgreSQL compares them with each row (`row_security`); where none is set no row is there.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

import asyncpg

from taskflow.errors import TaskFlowError

Session = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
"""A connection in nobody's name."""

_LOST: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.InternalClientError,
)

DEFAULT_TENANT_ID = UUID("00000000-0000-7000-8000-000000000001")
"""The tenant that is there from the start; the key from the settings belongs to it."""


def begin_for(tenant_id: UUID, *, read_only: bool = False) -> LiteralString:
    """What opens a transaction of a tenant's (role TENANT), in one round trip.

    Raises:
        TypeError: it is no UUID; it becomes part of a statement.
    """
    begin = "BEGIN READ ONLY" if read_only else "BEGIN"
    return f"{begin}; SET LOCAL taskflow.tenant = '{_uuid_text(tenant_id)}'"


def begin_for_batch(tenants: Collection[UUID]) -> LiteralString:
    """What opens a transaction of several tenants' submissions (role INTAKE).

    Raises:
        TypeError: one is no UUID.
    """
    names = ",".join(sorted(_uuid_text(tenant_id) for tenant_id in tenants))
    return f"BEGIN; SET LOCAL taskflow.tenants = '{{{names}}}'"


def named_by(tenants: LiteralString) -> LiteralString:
    """SQL by which a statement of role INTAKE names its tenants itself, for as long as it lasts.

    `tenants` is SQL for a uuid[], or for NULL: then it names nobody. Policies read the names when
    they are first asked. So whatever the statement reads or writes of tenants has to come of the
    row that this is in, for before it nothing is there.
    """
    naming = f"set_config('taskflow.tenants', ({tenants})::text, true)"
    return f"CASE WHEN {tenants} IS NULL THEN '' ELSE {naming} END"


def _uuid_text(tenant_id: UUID) -> LiteralString:
    if not isinstance(tenant_id, UUID):
        raise TypeError(f"a tenant is named by a UUID, not by {tenant_id!r}")
    return tenant_id.hex


class TenantConnection:
    """A connection like any other, whose every statement is made in tenants' name.

    A statement outside of `transaction()` has one of its own.
    """

    def __init__(self, connection: Session, begin: LiteralString) -> None:
        """`begin`: of `begin_for`."""
        self._connection = connection
        self._begin = begin
        self._in_transaction = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """One transaction; they don't nest.

        An error of its last word leaves open whether it is committed.
        """
        async with _transaction(self._connection, self._begin):
            self._in_transaction = True
            try:
                yield
            finally:
                self._in_transaction = False

    async def execute(self, query: LiteralString, *values: Any) -> str:
        """Asyncpg's own."""
        async with self._own_transaction():
            return await self._connection.execute(query, *values)

    async def fetch(self, query: LiteralString, *values: Any) -> list[Any]:
        """Asyncpg's own."""
        async with self._own_transaction():
            return await self._connection.fetch(query, *values)

    async def fetchrow(self, query: LiteralString, *values: Any) -> Any:
        """Asyncpg's own."""
        async with self._own_transaction():
            return await self._connection.fetchrow(query, *values)

    async def fetchval(self, query: LiteralString, *values: Any) -> Any:
        """Asyncpg's own."""
        async with self._own_transaction():
            return await self._connection.fetchval(query, *values)

    @asynccontextmanager
    async def _own_transaction(self) -> AsyncIterator[None]:
        if self._in_transaction:
            yield
        else:
            async with _transaction(self._connection, self._begin):
                yield


class IntakeConnection(TenantConnection):
    """In the name of several tenants (role INTAKE), for a batch of submissions."""

    def __init__(self, connection: Session, tenants: Collection[UUID]) -> None:
        """The names are those of `tenants`."""
        super().__init__(connection, begin_for_batch(tenants))
        self._tenants = list(tenants)

    async def fetch_naming(self, query: LiteralString, *values: Any) -> list[Any]:
        """As `fetch`, in one round trip for three: `query` names the tenants itself (`named_by`).

        They are its last parameter.
        """
        return await self._connection.fetch(query, *values, self._tenants)


@asynccontextmanager
async def _transaction(connection: Session, begin: LiteralString) -> AsyncIterator[None]:
    try:
        await connection.execute(begin)
        yield
        await connection.execute("COMMIT")
    except (TaskFlowError, asyncpg.PostgresError):
        await _roll_back(connection)
        raise
    except BaseException:
        # Cut off in the middle of a statement: where its transaction stands nobody knows.
        connection.terminate()
        raise


async def _roll_back(connection: Session) -> None:
    try:
        await connection.execute("ROLLBACK")
    except _LOST:
        # The server rolls back what its client has left.
        connection.terminate()
