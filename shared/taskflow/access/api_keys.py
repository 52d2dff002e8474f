"""What can be done to a tenant's keys: create, rename, rotate, revoke.

Each is one short transaction that writes the key's row and what the audit log says of it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from taskflow import api_key
from taskflow.access.audit_log import Act, Origin, record
from taskflow.access.errors import ApiKeyConflict, ApiKeyNotFound
from taskflow.api_key import ApiKey
from taskflow.db.pool import Connection
from taskflow.errors import InvalidContent
from taskflow.jobs.schemas import LAST_TIME


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A key to make; without an end it is good until it is revoked."""

    name: str
    scopes: Collection[str]
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key that was made; nobody can read its text again."""

    id: UUID
    key: ApiKey


# A time that was asked for is compared with the database's, as it will be from then on.
_INSERT = """
INSERT INTO api_keys (id, tenant_id, key_id, secret_hash, name, scopes, created_by_kind,
                      created_by_id, expires_at, replaces)
SELECT $1, $2, $3, $4, $5, $6::text[], $7, $8, $9::timestamptz, $10
WHERE $9 IS NULL OR $9 > now()
RETURNING id
"""


async def create(
    connection: Connection, tenant_id: UUID, wanted: WantedKey, origin: Origin
) -> MadeKey:
    """Make a key.

    Raises:
        InvalidContent: it would have expired already.
    """
    async with connection.transaction():
        return await _insert(connection, tenant_id, wanted, origin)


async def _insert(
    connection: Connection,
    tenant_id: UUID,
    wanted: WantedKey,
    origin: Origin,
    *,
    replaces: UUID | None = None,
) -> MadeKey:
    made = MadeKey(uuid7(), api_key.generate())
    scopes = sorted(wanted.scopes)
    inserted = await connection.fetchval(
        _INSERT,
        made.id,
        tenant_id,
        made.key.key_id,
        made.key.digest,
        wanted.name,
        scopes,
        origin.actor.kind,
        origin.actor.id,
        wanted.expires_at,
        replaces,
    )
    if inserted is None:
        raise InvalidContent(
            "The key would be of no use.", [("/expires_at", "is not in the future")]
        )
    after = {"name": wanted.name, "scopes": scopes, "expires_at": _shown(wanted.expires_at)}
    if replaces is not None:
        after["replaces"] = str(replaces)
    await record(connection, tenant_id, origin, _act("create", made.id, after=after))
    return made


_LOCK = """
SELECT id, name, scopes, created_at, expires_at, revoked_at, replaces,
       revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS is_current,
       revoked_at <= now() AS is_revoked, now() AS now
FROM api_keys WHERE tenant_id = $1 AND id = $2 FOR UPDATE
"""


async def _lock(connection: Connection, tenant_id: UUID, api_key_id: UUID) -> Any:
    row = await connection.fetchrow(_LOCK, tenant_id, api_key_id)
    if row is None:
        raise ApiKeyNotFound(api_key_id)
    return row


async def rename(
    connection: Connection, tenant_id: UUID, api_key_id: UUID, name: str, origin: Origin
) -> None:
    """Give a key another name.

    Raises:
        ApiKeyNotFound: this tenant has no such key.
    """
    async with connection.transaction():
        row = await _lock(connection, tenant_id, api_key_id)
        if row["name"] == name:
            return
        await connection.execute("UPDATE api_keys SET name = $2 WHERE id = $1", api_key_id, name)
        act = _act("rename", api_key_id, before={"name": row["name"]}, after={"name": name})
        await record(connection, tenant_id, origin, act)


_REVOKE = "UPDATE api_keys SET revoked_at = $2 WHERE id = $1"

_LIVE_PREDECESSOR = """
SELECT id FROM api_keys
WHERE tenant_id = $1 AND id = $2 AND revoked_at > now()
  AND (expires_at IS NULL OR expires_at > now())
"""


async def rotate(
    connection: Connection,
    tenant_id: UUID,
    api_key_id: UUID,
    origin: Origin,
    *,
    overlap: timedelta,
    expires_at: datetime | None = None,
) -> MadeKey:
    """Make a key that takes the place of another, which ends when `overlap` is over.

    Without an end of its own it is good for as long as the old one was when that was made.

    Raises:
        ApiKeyNotFound: this tenant has no such key.
        ApiKeyConflict: it is not good any more, or two keys are live already.
        InvalidContent: the new one would have expired already.
    """
    async with connection.transaction():
        old = await _lock(connection, tenant_id, api_key_id)
        if not old["is_current"]:
            raise ApiKeyConflict(
                "The key was rotated or revoked, or has expired: rotate the one in its place, or"
                " make a new one."
            )
        if await connection.fetchval(_LIVE_PREDECESSOR, tenant_id, old["replaces"]) is not None:
            raise ApiKeyConflict(
                f"The key that this one replaces, {old['replaces']}, still works: revoke it first."
            )
        if expires_at is None and old["expires_at"] is not None:
            life = old["expires_at"] - old["created_at"]
            expires_at = old["now"] + min(life, LAST_TIME - old["now"])
        wanted = WantedKey(old["name"], old["scopes"], expires_at)
        made = await _insert(connection, tenant_id, wanted, origin, replaces=api_key_id)
        ends_at = old["now"] + overlap
        await connection.execute(_REVOKE, api_key_id, ends_at)
        after = {"revoked_at": _shown(ends_at), "replaced_by": str(made.id)}
        act = _act("rotate", api_key_id, before={"revoked_at": None}, after=after)
        await record(connection, tenant_id, origin, act)
        return made


async def revoke(connection: Connection, tenant_id: UUID, api_key_id: UUID, origin: Origin) -> None:
    """End a key now; again does nothing.

    Raises:
        ApiKeyNotFound: this tenant has no such key.
    """
    async with connection.transaction():
        row = await _lock(connection, tenant_id, api_key_id)
        if row["is_revoked"]:
            return
        await connection.execute(_REVOKE, api_key_id, row["now"])
        before, after = ({"revoked_at": _shown(at)} for at in (row["revoked_at"], row["now"]))
        await record(
            connection, tenant_id, origin, _act("revoke", api_key_id, before=before, after=after)
        )


def _act(verb: str, api_key_id: UUID, **change: dict[str, Any]) -> Act:
    return Act(f"api_key.{verb}", "api_key", str(api_key_id), **change)


def _shown(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
