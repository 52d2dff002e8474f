"""The asyncpg pool that the writes go through, and which of its errors mean "try again"."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import asyncpg
import structlog

from taskflow.db.roles import DatabaseRole, RoleRefused, connect_as
from taskflow.db.tenants import IntakeConnection, Session, TenantConnection, begin_for
from taskflow.errors import ServiceUnavailable
from taskflow.tls import certificate_problem

TRANSIENT_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg says of a session whose end has just arrived.
    asyncpg.exceptions.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    # Whole classes of SQLSTATE: out of disk, memory or connections (53); shut down, ended or
    # cancelled by a limit (57); a disk that fails (58); a server in disorder (XX). None of them
    # says anything against the statement.
    asyncpg.InsufficientResourcesError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A server that was demoted, before our connections are led to its successor, or one that was
    # made to take no more for want of room.
    asyncpg.ReadOnlySQLTransactionError,
)
"""Errors after which the same statement with the same ids may be sent again: all writes of ours
are idempotent. A commit whose answer was lost is among them."""

REFUSALS: tuple[type[BaseException], ...] = (
    # Of an option in the URL, before anything is sent.
    asyncpg.exceptions.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    RoleRefused,
    ssl.SSLCertVerificationError,
)
"""PostgreSQL doesn't let us in, or can't prove who it is: a wrong password, a missing database or
role, a certificate of a stranger. A process that starts says so and ends; one that runs goes on
asking, for its outcomes are not written yet."""

log = structlog.get_logger(__name__)

STEADY_PLANS = {
    # Else it goes on planning anew what seems to be cheaper for the values at hand, and a large
    # statement takes longer to plan than to carry out.
    "plan_cache_mode": "force_generic_plan",
    # A plan that was made while a table was empty stays until the table is next analyzed, which may
    # be a minute and a hundred thousand rows later.
    "enable_seqscan": "off",
    # Of no use to what finds few rows; where there is no index, older servers take a plan without
    # sequential scans for one that is worth compiling.
    "jit": "off",
}
"""How PostgreSQL is to plan what is done for every job."""

Connection = Session | TenantConnection


class Database:
    """A pool whose every wait is bounded; born in `main` or lifespan, closed there."""

    def __init__(self, pool: asyncpg.Pool, acquire_timeout_seconds: float) -> None:
        self._pool = pool
        self._acquire_timeout = acquire_timeout_seconds
        self._releases: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Session]:
        """One connection in autocommit.

        Raises:
            ServiceUnavailable: none is free in time, or the server can't be reached or refuses us.
        """
        try:
            connection = await self._pool.acquire(timeout=self._acquire_timeout)
        except (*TRANSIENT_ERRORS, *REFUSALS) as error:
            raise ServiceUnavailable("PostgreSQL", _said(error)) from error
        try:
            yield connection
        except TRANSIENT_ERRORS as error:
            # What a silent server makes of a cancellation: the rollback gets no answer either.
            if _is_being_cancelled():
                raise asyncio.CancelledError from error
            raise
        finally:
            await self._give_back(connection)

    async def _give_back(self, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        release = asyncio.create_task(self._release(connection), name="release-connection")
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        # Who is cancelled doesn't take the connection along, nor wait for a server that is silent.
        if not _is_being_cancelled():
            await asyncio.shield(release)

    async def _release(self, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        try:
            await self._pool.release(connection, timeout=self._acquire_timeout)
        except TRANSIENT_ERRORS as error:
            # Such a session is ended, which must hide neither an outcome nor a cancellation.
            log.warning("database_session_given_up", error=_said(error))

    async def close(self) -> None:
        """Close every connection, within the waiting time."""
        try:
            await asyncio.wait_for(self._pool.close(), self._acquire_timeout)
        except TimeoutError:
            self._pool.terminate()


class TenantDatabase:
    """A pool under the role TENANT: there is no connection of it but in a tenant's name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def connection(self, tenant_id: UUID) -> AsyncIterator[TenantConnection]:
        """One connection that sees and writes what belongs to this tenant alone.

        Raises:
            ServiceUnavailable: as `Database.connection`.
        """
        async with self._database.connection() as connection:
            yield TenantConnection(connection, begin_for(tenant_id))


class IntakeDatabase:
    """A pool under the role INTAKE, for the submissions of several tenants in one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def connection(self, tenants: Collection[UUID]) -> AsyncIterator[IntakeConnection]:
        """One connection that inserts and finds what belongs to these tenants alone.

        Raises:
            ServiceUnavailable: as `Database.connection`.
        """
        async with self._database.connection() as connection:
            yield IntakeConnection(connection, tenants)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _said(error: BaseException) -> str:
    return certificate_problem(error) or str(error) or type(error).__name__


async def open_database(
    database_url: str,
    *,
    role: DatabaseRole,
    application_name: str,
    pool_size: int,
    statement_timeout_seconds: float,
    acquire_timeout_seconds: float,
    steady_plans: bool = False,
) -> Database:
    """A pool that connects when it is first asked, so that a process can start without it.

    `steady_plans`: its statements find rows by indexes, whatever is asked and however large the
    tables are, and each is planned once for each connection.
    """
    pool = asyncpg.create_pool(
        database_url,
        connect=partial(connect_as, role),
        min_size=0,
        max_size=pool_size,
        timeout=acquire_timeout_seconds,
        # The server's own limit comes first; this one is for a server that is frozen.
        command_timeout=statement_timeout_seconds + 1,
        max_inactive_connection_lifetime=60,
        server_settings={
            "application_name": application_name,
            "statement_timeout": str(int(statement_timeout_seconds * 1000)),
            # A process that freezes in mid-transaction must not keep its locks.
            "idle_in_transaction_session_timeout": str(int(statement_timeout_seconds * 1000)),
            **(STEADY_PLANS if steady_plans else {}),
        },
        reset=_keep_session,
    )
    await pool
    return Database(pool, acquire_timeout_seconds)


async def _keep_session(connection: Connection) -> None:
    """Nothing of ours leaves state in a session, so the reset query is a round trip for nothing."""
    del connection
