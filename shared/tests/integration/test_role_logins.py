"""A login that may not take its role, and what it is told."""

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from taskflow.db.roles import DatabaseRole, RoleRefused, _names, _require, connect_as
from taskflow.db.startup import wait_for_database
from taskflow.errors import ConfigurationError
from taskflow_testing.clients import open_pool

CONSUMER = DatabaseRole.CONSUMER


@pytest.fixture
async def login(connection: asyncpg.Connection, clean_database: str) -> AsyncIterator[str]:
    """The address of a login that may take no role."""
    name = f"tester_{uuid4().hex[:12]}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield re.sub(r"//[^@]*@", f"//{name}:secret@", clean_database)
    await connection.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("said", "is_about_it"),
    [
        ('role "taskflow_consumer" does not exist', True),
        ("Rolle »taskflow_consumer« existiert nicht", True),
        ('permission denied for database "taskflow_consumer_login"', False),
    ],
)
def test_a_refused_role_is_known_in_any_language(said: str, is_about_it: bool) -> None:
    assert _names(CONSUMER, asyncpg.InvalidParameterValueError(said)) is is_about_it


async def test_a_login_without_its_role_is_told_what_mends_it(
    connection: asyncpg.Connection, login: str
) -> None:
    with pytest.raises(RoleRefused) as refused:
        await connect_as(CONSUMER, login, server_settings={})
    name = login.split("//")[1].split(":", maxsplit=1)[0]
    mends = f'GRANT taskflow_consumer TO "{name}"'
    assert mends in str(refused.value)
    async with open_pool(login, CONSUMER) as database:
        with pytest.raises(ConfigurationError, match=r"^TASKFLOW_DATABASE_URL: .*GRANT"):
            await wait_for_database(database)
    await connection.execute(mends)
    session = await connect_as(CONSUMER, login, server_settings={})
    assert await session.fetchval("SELECT current_user") == "taskflow_consumer"
    await session.close()


async def test_a_session_that_came_without_its_role_is_given_up(clean_database: str) -> None:
    session = await asyncpg.connect(clean_database)
    with pytest.raises(RoleRefused, match="pooler"):
        await _require(CONSUMER, session)
    assert session.is_closed()
