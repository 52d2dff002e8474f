"""Waiting on conditions, never on sleeps."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

Found = TypeVar("Found")


async def eventually(
    look: Callable[[], Awaitable[Found | None]], *, timeout: float = 15.0, pause: float = 0.02
) -> Found:
    """What `look` finds, as soon as it finds something true (times in seconds).

    Raises:
        AssertionError: it found nothing in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        found = await look()
        if found:
            return found
        if loop.time() > deadline:
            raise AssertionError(f"nothing within {timeout} s; last found: {found!r}")
        await asyncio.sleep(pause)


async def sessions_waiting(connection: asyncpg.Connection) -> int:
    """How many sessions of this database wait for a lock that another one has."""
    # Not from pg_stat_activity, which stays what it was until the transaction ends that asks.
    found: int = await connection.fetchval(
        "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid"
        " FROM pg_locks JOIN pg_database ON oid = database WHERE datname = current_database())"
    )
    return found
