"""The database roles: which part of TaskFlow may do what, whatever login its URL names.

No role can log in. A connection takes its role as it is made; the migrations say what each may do.
"""

import re
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from taskflow.errors import TaskFlowError


class DatabaseRole(StrEnum):
    """Who acts."""

    TENANT = "taskflow_tenant"
    """A request, in the name of its tenant: row-level security hides what others own."""
    INTAKE = "taskflow_intake"
    """A batch of submissions, in the name of the tenants that it is from."""
    API = "taskflow_api"
    """The API in nobody's name: stamps of pointers, commits in doubt, ends, health."""
    CONSUMER = "taskflow_consumer"
    SCHEDULER = "taskflow_scheduler"
    """Also the doctor's, which reads what the scheduler reads."""


class RoleRefused(TaskFlowError):
    """The login may not take the role that the process works under, or there is no such role."""


async def connect_as(
    role: DatabaseRole,
    database_url: str,
    *,
    server_settings: dict[str, str],
    **options: Any,
) -> asyncpg.Connection:
    """`asyncpg.connect`, under a role from the first statement on.

    Raises:
        RoleRefused: with what mends it.
        Exception: what asyncpg.connect raises.
    """
    try:
        connection: asyncpg.Connection = await asyncpg.connect(
            database_url, server_settings=server_settings | {"role": role.value}, **options
        )
    except (asyncpg.InvalidParameterValueError, asyncpg.InsufficientPrivilegeError) as error:
        # The same codes stand for refusals that have nothing to do with a role.
        if not _names(role, error):
            raise
        raise RoleRefused(_what_mends(role, database_url, error)) from error
    await _require(role, connection)
    return connection


def _names(role: DatabaseRole, error: asyncpg.PostgresError) -> bool:
    """Whether it is about this role, in whatever language the server speaks."""
    return re.search(rf"\b{role}\b", str(error)) is not None


async def _require(role: DatabaseRole, connection: asyncpg.Connection) -> None:
    """A pooler may take a role for one of the parameters that it is told to ignore."""
    try:
        acts_as = await connection.fetchval("SELECT current_user")
    except BaseException:
        connection.terminate()
        raise
    if acts_as != role:
        connection.terminate()
        raise RoleRefused(
            f"the session acts as {acts_as}, not as {role}. A pooler in between must pass the"
            " startup parameter 'role' on."
        )


def _what_mends(role: DatabaseRole, database_url: str, error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.InvalidParameterValueError):
        return f"the database has no role {role}. Run 'make migrate'."
    login = unquote(urlsplit(database_url).username or "") or "<the login>"
    return (
        f"the login {login} may not take the role {role}. As a superuser or whoever administers"
        f' that role, run: GRANT {role} TO "{login}"'
    )
