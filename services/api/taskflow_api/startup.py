"""Before the service opens: what must be right, said in one line where it is not."""

import errno
import socket

from taskflow.db.pool import open_database
from taskflow.db.roles import DatabaseRole
from taskflow.db.startup import wait_for_database
from taskflow.errors import ConfigurationError
from taskflow.settings import ApiSettings

BACKLOG = 2048
"""How many connections may wait to be taken."""


def open_socket(settings: ApiSettings) -> socket.socket:
    """A socket bound to the address of the settings; it takes no connection yet.

    Raises:
        ConfigurationError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.api_host, settings.api_port))
    except OSError as error:
        bound.close()
        raise _no_address(settings, error) from error
    return bound


def listen(bound: socket.socket, settings: ApiSettings) -> None:
    """Take connections from now on.

    Raises:
        ConfigurationError: another process that was bound to the address does so already.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _no_address(settings, error) from error


def _no_address(settings: ApiSettings, error: OSError) -> ConfigurationError:
    host, port = settings.api_host, settings.api_port
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} on {host} is taken; set TASKFLOW_API_PORT to a free one"
        )
    return ConfigurationError(
        f"can't listen on {host}:{port} ({error.strerror or error});"
        " see TASKFLOW_API_HOST and TASKFLOW_API_PORT"
    )


async def require_database(settings: ApiSettings) -> None:
    """Return once PostgreSQL answers with the tables that this code needs.

    Raises:
        SchemaBehind: migrations are missing.
        ConfigurationError: it refuses us, or is out of reach for too long.
    """
    for role in (DatabaseRole.API, DatabaseRole.INTAKE, DatabaseRole.TENANT):
        await _require_database(settings, role)


async def _require_database(settings: ApiSettings, role: DatabaseRole) -> None:
    database = await open_database(
        settings.database_url.get_secret_value(),
        role=role,
        application_name="taskflow-api-start",
        pool_size=1,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        acquire_timeout_seconds=settings.database_acquire_timeout_seconds,
    )
    try:
        await wait_for_database(database)
    finally:
        await database.close()
