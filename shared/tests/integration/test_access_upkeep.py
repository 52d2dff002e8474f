"""What goes of keys, sessions and the audit log, under the role of who deletes it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from taskflow.access.audit_log import Act, record
from taskflow.access.upkeep import (
    prune_api_keys,
    prune_audit_log,
    prune_refresh_tokens,
    prune_sessions,
)
from taskflow.db.roles import DatabaseRole, connect_as
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow_testing.api_keys import ORIGIN, make_key

DAY = timedelta(days=1)


@pytest.fixture
async def scheduler(clean_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_as(DatabaseRole.SCHEDULER, clean_database, server_settings={})
    yield connection
    await connection.close()


async def wrote(connection: asyncpg.Connection, action: str, age: timedelta) -> None:
    await record(connection, DEFAULT_TENANT_ID, ORIGIN, Act(action, "job", "1"))
    await connection.execute(
        "UPDATE audit_log SET created_at = now() - $2::interval WHERE action = $1", action, age
    )


async def test_the_oldest_of_the_audit_log_goes_first_and_the_young_stays(
    connection: asyncpg.Connection, scheduler: asyncpg.Connection
) -> None:
    ages = {"new": 0, "younger": 99, "old": 101, "oldest": 102}
    for action, days in ages.items():
        await wrote(connection, action, days * DAY)

    async def left() -> set[str]:
        return {row["action"] for row in await connection.fetch("SELECT action FROM audit_log")}

    assert await prune_audit_log(scheduler, days=100, limit=1) == 1
    assert await left() == ages.keys() - {"oldest"}
    assert await prune_audit_log(scheduler, days=100, limit=2) == 1
    assert await left() == {"new", "younger"}


async def test_whoever_acts_as_a_scheduler_leaves_the_last_thirty_days(
    connection: asyncpg.Connection, scheduler: asyncpg.Connection
) -> None:
    await wrote(connection, "within", 29 * DAY)
    await wrote(connection, "before", 31 * DAY)
    assert await scheduler.execute("DELETE FROM audit_log") == "DELETE 1"
    assert await connection.fetchval("SELECT action FROM audit_log") == "within"


async def test_whoever_acts_as_a_scheduler_deletes_no_key_and_no_session_that_is_good(
    connection: asyncpg.Connection, scheduler: asyncpg.Connection
) -> None:
    await make_key(connection)
    ends = await make_key(connection)
    await connection.execute(
        "UPDATE api_keys SET revoked_at = now() + interval '1 hour' WHERE id = $1", ends.id
    )
    user_id = await user(connection)
    await session(connection, user_id, -1, 0)
    for table in ("api_keys", "user_sessions"):
        assert await scheduler.execute(f"DELETE FROM {table}") == "DELETE 0"


async def test_keys_go_so_long_after_their_end(
    connection: asyncpg.Connection, scheduler: asyncpg.Connection
) -> None:
    ends: dict[str, tuple[int | None, int | None]] = {
        "good": (None, None),
        "ends": (50, None),
        "revoked lately": (5, None),
        "revoked": (-11, None),
        "expired lately": (None, -9),
        "expired": (None, -12),
        "expired after it was revoked": (-20, 5),
    }
    for name, days in ends.items():
        made = await make_key(connection)
        revoked_at, expires_at = (None if at is None else at * DAY for at in days)
        await connection.execute(
            "UPDATE api_keys SET name = $2, revoked_at = now() + $3::interval,"
            " expires_at = now() + $4::interval WHERE id = $1",
            made.id,
            name,
            revoked_at,
            expires_at,
        )
    pruned = [await prune_api_keys(scheduler, days=10, limit=2) for _ in range(3)]
    assert pruned == [2, 1, 0]
    left = {row["name"] for row in await connection.fetch("SELECT name FROM api_keys")}
    assert left == {"good", "ends", "revoked lately", "expired lately"}


async def test_a_key_that_somebody_holds_is_left_for_later(
    connection: asyncpg.Connection, scheduler: asyncpg.Connection
) -> None:
    made = await make_key(connection)
    await connection.execute("UPDATE api_keys SET revoked_at = now() - interval '9 days'")
    async with connection.transaction():
        await connection.execute("SELECT FROM api_keys WHERE id = $1 FOR UPDATE", made.id)
        assert await prune_api_keys(scheduler, days=1) == 0
    assert await prune_api_keys(scheduler, days=1) == 1


async def user(connection: asyncpg.Connection) -> UUID:
    user_id = uuid4()
    await connection.execute(
        "INSERT INTO users (id, tenant_id, email, password_hash) VALUES ($1, $2, 'a@b', 'h')",
        user_id,
        DEFAULT_TENANT_ID,
    )
    return user_id


async def session(connection: asyncpg.Connection, user_id: UUID, age: int, tokens: int) -> None:
    """One that expired so many days ago, with so many tokens."""
    session_id = uuid4()
    await connection.execute(
        "INSERT INTO user_sessions (id, tenant_id, user_id, scopes, address, expires_at)"
        " VALUES ($1, $2, $3, '{}', '192.0.2.1', now() - $4::interval)",
        session_id,
        DEFAULT_TENANT_ID,
        user_id,
        age * DAY,
    )
    for _ in range(tokens):
        await connection.execute(
            "INSERT INTO refresh_tokens (token_hash, tenant_id, session_id) VALUES ($1, $2, $3)",
            uuid4().bytes,
            DEFAULT_TENANT_ID,
            session_id,
        )


async def test_a_session_goes_after_its_tokens_which_go_in_slices(
    connection: asyncpg.Connection, scheduler: asyncpg.Connection
) -> None:
    user_id = await user(connection)
    for age, tokens in ((40, 5), (35, 0), (20, 1), (-5, 1)):
        await session(connection, user_id, age, tokens)

    assert await prune_sessions(scheduler, days=30) == 1
    tokens_gone = [await prune_refresh_tokens(scheduler, days=30, limit=2) for _ in range(4)]
    assert tokens_gone == [2, 2, 1, 0]
    assert [await prune_sessions(scheduler, days=30) for _ in range(2)] == [1, 0]
    assert await connection.fetchval("SELECT count(*) FROM user_sessions") == 2
    assert await connection.fetchval("SELECT count(*) FROM refresh_tokens") == 2
