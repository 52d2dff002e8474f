"""Whether the objects that rows name are there: asked of the object store, many at once."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.errors import ObjectMissing
from taskflow.object_store import ObjectStore

CHUNKS_SEEN = 20_000
"""From how many of the newest stretches of log the sample is drawn."""

AT_ONCE = 8

_NAMED = f"""
SELECT key FROM (
    SELECT object_key AS key FROM (
        SELECT object_key FROM log_chunks ORDER BY id DESC LIMIT {CHUNKS_SEEN}
    ) AS newest
    UNION
    SELECT result_object FROM jobs WHERE id >= $2 AND result_object IS NOT NULL
) AS named
ORDER BY random() LIMIT $1
"""


async def sample_keys(connection: Connection, *, first_job: UUID, limit: int) -> list[str]:
    """Keys of up to `limit` objects that rows name, drawn at random; all, where there are fewer."""
    return [row["key"] for row in await connection.fetch(_NAMED, limit, first_job)]


async def sizes(object_store: ObjectStore, keys: Sequence[str]) -> dict[str, int | None]:
    """The objects' sizes in bytes, None for one that is missing.

    Raises:
        ServiceUnavailable: the object store isn't well.
    """
    # Waiting here, not in the store's own line, where the wait would count as its slowness.
    slots = asyncio.Semaphore(AT_ONCE)
    found = await asyncio.gather(*(_size(object_store, key, slots) for key in keys))
    return dict(zip(keys, found, strict=True))


async def _size(object_store: ObjectStore, key: str, slots: asyncio.Semaphore) -> int | None:
    async with slots:
        try:
            return await object_store.size(key)
        except ObjectMissing:
            return None
