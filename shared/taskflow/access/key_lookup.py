"""Whose a key is, asked in nobody's name (role API), and that it was used."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from taskflow.access.scopes import Scope
from taskflow.db.pool import Connection

USE_SECONDS = 60
"""That a key is used is written down so often at most."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is known of a key as of a moment."""

    id: UUID
    tenant_id: UUID
    secret_hash: bytes
    scopes: frozenset[Scope]
    seconds_left: float | None
    """How long it is good from that moment on; not above zero: it is not. None: without an end."""


# LEAST leaves out what is NULL.
_LOOK_UP = """
SELECT id, tenant_id, key_id, secret_hash, scopes,
       extract(epoch FROM least(expires_at, revoked_at) - clock_timestamp())::float8 AS seconds_left
FROM api_keys WHERE key_id = ANY($1::text[])
"""


async def look_up(connection: Connection, key_ids: Collection[str]) -> dict[str, StoredKey]:
    """The keys among these that there are, of any tenant, good or not, by their key ids."""
    return {
        row["key_id"]: StoredKey(
            id=row["id"],
            tenant_id=row["tenant_id"],
            secret_hash=row["secret_hash"],
            # Scopes that a later version has made are none of this one's.
            scopes=frozenset(scope for scope in Scope if scope in row["scopes"]),
            seconds_left=row["seconds_left"],
        )
        for row in await connection.fetch(_LOOK_UP, list(key_ids))
    }


# Another process that notes the same key at this moment says all that there is to say.
_NOTE_USES = f"""
UPDATE api_keys SET last_used_at = now()
WHERE id IN (
    SELECT id FROM api_keys
    WHERE id = ANY($1::uuid[])
      AND (last_used_at IS NULL OR last_used_at <= now() - interval '{USE_SECONDS} seconds')
    ORDER BY id FOR UPDATE SKIP LOCKED
)
"""


async def note_uses(connection: Connection, api_key_ids: Collection[UUID]) -> None:
    """Write down that these keys are used, those that were noted lately left out."""
    await connection.execute(_NOTE_USES, list(api_key_ids))
