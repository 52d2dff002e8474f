"""The connections of the services to PostgreSQL, as the server counts them."""

import asyncio
import time
from collections import Counter
from datetime import datetime

import asyncpg

_OURS = "backend_type = 'client backend' AND application_name LIKE 'taskflow%'"
_COUNT = f"SELECT application_name, count(*) FROM pg_stat_activity WHERE {_OURS} GROUP BY 1"
_PIDS = f"SELECT pid FROM pg_stat_activity WHERE {_OURS} ORDER BY pid"
_UNUSED = f"""
SELECT application_name, count(*) FROM pg_stat_activity
WHERE {_OURS} AND application_name = ANY($1::text[]) AND state_change < $2 GROUP BY 1
"""
_POLL_SECONDS = 0.25


async def count(connection: asyncpg.Connection) -> Counter[str]:
    """How many connections there are of each kind (application_name)."""
    rows = await connection.fetch(_COUNT)
    return Counter({row["application_name"]: row["count"] for row in rows})


async def pids(connection: asyncpg.Connection) -> list[int]:
    """The server's process for each connection."""
    return [row["pid"] for row in await connection.fetch(_PIDS)]


async def highest(connection: asyncpg.Connection, seconds: float) -> Counter[str]:
    """The most that there were of each kind during this time."""
    most: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        most |= await count(connection)
        await asyncio.sleep(_POLL_SECONDS)
    return most


async def unused(connection: asyncpg.Connection, kinds: list[str], since: datetime) -> Counter[str]:
    """How many of these kinds have done nothing since then (by the database's clock)."""
    rows = await connection.fetch(_UNUSED, kinds, since)
    return Counter({row["application_name"]: row["count"] for row in rows})


async def terminate(connection: asyncpg.Connection, backends: list[int]) -> int:
    """End these as an administrator does; how many there were still."""
    ended = await connection.fetchval(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM unnest($1::int[]) AS pid",
        backends,
    )
    return int(ended)
