"""Keys on a real server: under the roles that the API has, each change with what is said of it."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskflow.access.api_keys import MadeKey, WantedKey, create, rename, revoke, rotate
from taskflow.access.errors import ApiKeyConflict, ApiKeyNotFound
from taskflow.access.key_lookup import StoredKey, look_up, note_uses
from taskflow.access.scopes import Scope
from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.db.tenants import TenantConnection, begin_for
from taskflow.errors import InvalidContent
from taskflow.jobs.schemas import LAST_TIME
from taskflow_testing.api_keys import ORIGIN, make_key
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import TENANT, Connect

OTHER = UUID("00000000-0000-7000-8000-000000000002")
HOUR = timedelta(hours=1)


@pytest.fixture
async def tenant(clean_database: str) -> AsyncIterator[TenantConnection]:
    """A connection as a request has it."""
    async with (
        open_pool(clean_database, DatabaseRole.TENANT, pool_size=1) as database,
        database.connection() as session,
    ):
        yield TenantConnection(session, begin_for(TENANT))


@pytest.fixture
async def api(clean_database: str) -> AsyncIterator[Database]:
    """Connections as the API has them in nobody's name."""
    async with open_pool(clean_database, DatabaseRole.API, pool_size=2) as database:
        yield database


async def found(api: Database, made: MadeKey) -> StoredKey:
    async with api.connection() as connection:
        return (await look_up(connection, [made.key.key_id]))[made.key.key_id]


async def audit_of(connection: asyncpg.Connection, made: MadeKey) -> list[tuple[str, Any, Any]]:
    """Action, before and after of each entry, in their order."""
    rows = await connection.fetch(
        "SELECT action, before, after FROM audit_log WHERE resource_id = $1 ORDER BY id",
        str(made.id),
    )
    return [
        (row["action"], *(each and json.loads(each) for each in (row["before"], row["after"])))
        for row in rows
    ]


async def test_a_key_is_found_by_its_id_and_known_by_its_hash_alone(
    tenant: TenantConnection, api: Database, connection: asyncpg.Connection
) -> None:
    wanted = WantedKey("shop", {Scope.JOBS_WRITE, Scope.JOBS_READ})
    made = await create(tenant, TENANT, wanted, ORIGIN)
    stored = await found(api, made)
    assert stored == StoredKey(
        made.id, TENANT, made.key.digest, frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE}), None
    )
    everything = await connection.fetchval(
        "SELECT string_agg(k::text, '') || string_agg(a::text, '') FROM api_keys k, audit_log a"
    )
    assert made.key.secret not in everything
    [row] = await connection.fetch("SELECT * FROM audit_log")
    assert (row["tenant_id"], row["actor_kind"], row["actor_id"]) == (
        TENANT,
        "settings",
        "settings",
    )
    assert (row["client_address"], row["request_id"]) == ("203.0.113.7", "request-1")
    after = {"name": "shop", "scopes": ["jobs:read", "jobs:write"], "expires_at": None}
    assert await audit_of(connection, made) == [("api_key.create", None, after)]


async def test_nothing_else_is_found(api: Database) -> None:
    async with api.connection() as connection:
        assert await look_up(connection, ["00000000", "", "%"]) == {}


@pytest.mark.parametrize("seconds", [0, -1, -1e9])
async def test_a_key_that_has_expired_already_is_not_made(
    tenant: TenantConnection, connection: asyncpg.Connection, seconds: float
) -> None:
    wanted = WantedKey("late", {Scope.ADMIN}, datetime.now(UTC) + timedelta(seconds=seconds))
    with pytest.raises(InvalidContent) as raised:
        await create(tenant, TENANT, wanted, ORIGIN)
    assert [pointer for pointer, _ in raised.value.problems] == ["/expires_at"]
    assert await connection.fetchval("SELECT count(*) FROM audit_log") == 0


async def test_an_end_is_told_by_the_databases_clock(
    api: Database, connection: asyncpg.Connection
) -> None:
    made = await make_key(connection, expires_at=datetime.now(UTC) + HOUR)
    left = (await found(api, made)).seconds_left
    assert left is not None
    assert 3500 < left <= 3600
    await connection.execute("UPDATE api_keys SET revoked_at = now() + interval '10 s'")
    left = (await found(api, made)).seconds_left
    assert left is not None
    assert 5 < left <= 10


async def test_a_key_is_revoked_once(
    tenant: TenantConnection, api: Database, connection: asyncpg.Connection
) -> None:
    made = await make_key(connection)
    await revoke(tenant, TENANT, made.id, ORIGIN)
    left = (await found(api, made)).seconds_left
    assert left is not None
    assert left <= 0
    revoked_at = await connection.fetchval("SELECT revoked_at FROM api_keys")
    await revoke(tenant, TENANT, made.id, ORIGIN)
    assert await connection.fetchval("SELECT revoked_at FROM api_keys") == revoked_at
    entries = await audit_of(connection, made)
    assert [action for action, _, _ in entries] == ["api_key.create", "api_key.revoke"]
    assert entries[1][1] == {"revoked_at": None}


async def test_a_name_that_stays_is_no_change(
    tenant: TenantConnection, connection: asyncpg.Connection
) -> None:
    made = await make_key(connection)
    await rename(tenant, TENANT, made.id, "other", ORIGIN)
    await rename(tenant, TENANT, made.id, "other", ORIGIN)
    entries = await audit_of(connection, made)
    assert entries[1:] == [("api_key.rename", {"name": "test"}, {"name": "other"})]


async def test_two_keys_are_good_while_one_takes_the_place_of_the_other(
    tenant: TenantConnection, api: Database, connection: asyncpg.Connection
) -> None:
    old = await make_key(connection, scopes=[Scope.JOBS_READ])
    new = await rotate(tenant, TENANT, old.id, ORIGIN, overlap=HOUR)
    left = (await found(api, old)).seconds_left
    assert left is not None
    assert 3500 < left <= 3600
    stored = await found(api, new)
    assert stored.seconds_left is None
    assert stored.scopes == {Scope.JOBS_READ}
    [row] = await connection.fetch("SELECT name, replaces FROM api_keys WHERE id = $1", new.id)
    assert (row["name"], row["replaces"]) == ("test", old.id)

    # No third one, neither in the place of the old nor of the new.
    for key in (old, new):
        with pytest.raises(ApiKeyConflict):
            await rotate(tenant, TENANT, key.id, ORIGIN, overlap=HOUR)
    await revoke(tenant, TENANT, old.id, ORIGIN)
    await rotate(tenant, TENANT, new.id, ORIGIN, overlap=timedelta())
    left = (await found(api, new)).seconds_left
    assert left is not None
    assert left <= 0

    entries = await audit_of(connection, old)
    assert [action for action, _, _ in entries][1:] == ["api_key.rotate", "api_key.revoke"]
    assert entries[1][2]["replaced_by"] == str(new.id)
    assert (await audit_of(connection, new))[0][2]["replaces"] == str(old.id)


async def test_a_new_key_is_good_for_as_long_as_the_old_one_was(
    tenant: TenantConnection, connection: asyncpg.Connection
) -> None:
    old = await make_key(connection, expires_at=datetime.now(UTC) + 10 * HOUR)
    await connection.execute(
        "UPDATE api_keys SET created_at = created_at - interval '9 h',"
        " expires_at = expires_at - interval '9 h'"
    )
    new = await rotate(tenant, TENANT, old.id, ORIGIN, overlap=timedelta())
    life = "SELECT extract(epoch FROM expires_at - created_at) FROM api_keys WHERE id = $1"
    assert await connection.fetchval(life, new.id) == await connection.fetchval(life, old.id)


async def test_the_end_of_time_stays_where_it_is(
    tenant: TenantConnection, api: Database, connection: asyncpg.Connection
) -> None:
    old = await make_key(connection, expires_at=LAST_TIME)
    new = await rotate(tenant, TENANT, old.id, ORIGIN, overlap=timedelta())
    expiry = "SELECT expires_at FROM api_keys WHERE id = $1"
    assert await connection.fetchval(expiry, new.id) == LAST_TIME
    left = (await found(api, new)).seconds_left
    assert left is not None
    assert left > 0


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
async def test_a_key_that_is_over_is_not_rotated(
    tenant: TenantConnection, connection: asyncpg.Connection, column: str
) -> None:
    made = await make_key(connection)
    await connection.execute(f"UPDATE api_keys SET {column} = now()")
    with pytest.raises(ApiKeyConflict):
        await rotate(tenant, TENANT, made.id, ORIGIN, overlap=HOUR)
    assert await connection.fetchval("SELECT count(*) FROM api_keys") == 1


async def test_anothers_key_is_not_there(
    tenant: TenantConnection, connection: asyncpg.Connection
) -> None:
    theirs = await make_key(connection, tenant_id=OTHER)
    for api_key_id in (theirs.id, uuid4()):
        with pytest.raises(ApiKeyNotFound):
            await revoke(tenant, TENANT, api_key_id, ORIGIN)
        with pytest.raises(ApiKeyNotFound):
            await rename(tenant, TENANT, api_key_id, "mine", ORIGIN)
        with pytest.raises(ApiKeyNotFound):
            await rotate(tenant, TENANT, api_key_id, ORIGIN, overlap=HOUR)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await create(tenant, OTHER, WantedKey("mine", {Scope.ADMIN}), ORIGIN)
    assert await connection.fetchval("SELECT count(*) FROM api_keys") == 1
    assert await connection.fetchval("SELECT count(*) FROM audit_log") == 1


LAST_USED = "SELECT last_used_at FROM api_keys WHERE id = $1"


async def test_a_use_is_noted_once_a_minute(api: Database, connection: asyncpg.Connection) -> None:
    made, unused = await make_key(connection), await make_key(connection)
    async with api.connection() as session:
        await note_uses(session, [made.id])
        first = await connection.fetchval(LAST_USED, made.id)
        await note_uses(session, [made.id, uuid4()])
        assert await connection.fetchval(LAST_USED, made.id) == first is not None
        await connection.execute(
            "UPDATE api_keys SET last_used_at = now() - interval '61 s' WHERE id = $1", made.id
        )
        await note_uses(session, [made.id])
    assert await connection.fetchval(LAST_USED, made.id) > first
    assert await connection.fetchval(LAST_USED, unused.id) is None


async def test_a_use_waits_for_nobody_who_holds_the_key(
    api: Database, connection: asyncpg.Connection, connect: Connect
) -> None:
    held, other = await make_key(connection), await make_key(connection)
    holder = await connect()
    async with holder.transaction(), api.connection() as session:
        await holder.execute("SELECT FROM api_keys WHERE id = $1 FOR UPDATE", held.id)
        await note_uses(session, [held.id, other.id])
    assert await connection.fetchval(LAST_USED, held.id) is None
    assert await connection.fetchval(LAST_USED, other.id) is not None


async def test_a_scope_of_a_later_version_is_none(
    api: Database, connection: asyncpg.Connection
) -> None:
    made = await make_key(connection)
    await connection.execute("UPDATE api_keys SET scopes = '{jobs:read,moon:land}'")
    assert (await found(api, made)).scopes == {Scope.JOBS_READ}
