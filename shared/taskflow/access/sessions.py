"""Sessions of users: families of refresh tokens, each of which is used once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from taskflow.access.scopes import Scope
from taskflow.db.pool import Connection

GRACE_SECONDS = 10
"""For how long a token that was used is answered as before, while its successor is unused."""

MAX_SESSIONS = 50
"""How many a user keeps; the oldest goes when another begins."""


class EndReason(StrEnum):
    """Why a session has ended before its time."""

    LOGOUT = "logout"
    REUSE = "reuse"
    """A refresh token came that had been used before: it was stolen, or its successor was."""


@dataclass(frozen=True, slots=True)
class Session:
    """Whose session it is, and what its tokens may do."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a session is."""

    tenant_id: UUID
    user_id: UUID


@dataclass(frozen=True, slots=True)
class Family:
    """Where a refresh token belongs."""

    tenant_id: UUID
    session_id: UUID


@dataclass(frozen=True, slots=True)
class Rotated:
    """What became of a refresh token: it led on to `successor`, or its session has ended now."""

    session: Session
    successor: bytes | None
    """The hash of the token that takes its place."""


async def owners_of(connection: Connection, session_ids: Collection[UUID]) -> dict[UUID, Owner]:
    """Whose the sessions among these are that go on; in nobody's name. Disabled users have none."""
    rows = await connection.fetch(
        "SELECT session.id, session.tenant_id, session.user_id FROM user_sessions AS session"
        " JOIN users ON users.id = session.user_id"
        " WHERE session.id = ANY ($1::uuid[]) AND session.ended_at IS NULL"
        " AND session.expires_at > now() AND users.disabled_at IS NULL",
        list(session_ids),
    )
    return {row["id"]: Owner(row["tenant_id"], row["user_id"]) for row in rows}


async def begin(
    connection: Connection,
    session: Session,
    *,
    token_hash: bytes,
    address: str,
    life_seconds: int,
) -> None:
    """Insert a session with its first token, in its tenant's name and transaction.

    The user's oldest go that are beyond the last few, expired ones counted.
    """
    await connection.execute(
        "DELETE FROM user_sessions WHERE user_id = $1 AND id IN"
        " (SELECT id FROM user_sessions WHERE user_id = $1 ORDER BY created_at DESC OFFSET $2)",
        session.user_id,
        MAX_SESSIONS - 1,
    )
    await connection.execute(
        "INSERT INTO user_sessions (id, tenant_id, user_id, scopes, address, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))",
        session.id,
        session.tenant_id,
        session.user_id,
        sorted(session.scopes),
        address,
        life_seconds,
    )
    await _add_token(connection, session, token_hash)


async def find_family(connection: Connection, token_hash: bytes) -> Family | None:
    """Where a refresh token belongs, in nobody's name; None: nobody has ever had it."""
    row = await connection.fetchrow(
        "SELECT tenant_id, session_id FROM refresh_tokens WHERE token_hash = $1", token_hash
    )
    return None if row is None else Family(**row)


async def rotate(
    connection: Connection, family: Family, token_hash: bytes, successors: Sequence[bytes]
) -> Rotated | None:
    """Use up a refresh token, in its tenant's name and transaction; None: its session is over.

    `successors` are the hashes of what may follow it, the first of which does. A token that was
    used is answered once more for a moment, as long as nobody has used what followed it; later it
    ends its session.
    """
    session = await _lock(connection, family)
    token = await connection.fetchrow(
        "SELECT used_at IS NOT NULL AS is_used,"
        " used_at > clock_timestamp() - make_interval(secs => $2) AS just_now"
        " FROM refresh_tokens WHERE token_hash = $1",
        token_hash,
        GRACE_SECONDS,
    )
    if session is None or token is None:
        return None
    if not token["is_used"]:
        await connection.execute(
            "UPDATE refresh_tokens SET used_at = clock_timestamp() WHERE token_hash = $1",
            token_hash,
        )
        await _add_token(connection, session, successors[0])
        return Rotated(session, successors[0])
    if token["just_now"]:
        given: bytes | None = await connection.fetchval(
            "SELECT token_hash FROM refresh_tokens"
            " WHERE token_hash = ANY ($1::bytea[]) AND used_at IS NULL",
            list(successors),
        )
        if given is not None:
            return Rotated(session, given)
    await end(connection, session.id, EndReason.REUSE)
    return Rotated(session, None)


async def end(connection: Connection, session_id: UUID, reason: EndReason) -> bool:
    """End a session, in its tenant's name; False: it had ended, or is not there."""
    done = await connection.execute(
        "UPDATE user_sessions SET ended_at = now(), end_reason = $2"
        " WHERE id = $1 AND ended_at IS NULL",
        session_id,
        reason.value,
    )
    return done == "UPDATE 1"


async def _lock(connection: Connection, family: Family) -> Session | None:
    """The session while it goes on; its tokens are used one after the other from here."""
    row = await connection.fetchrow(
        "SELECT session.user_id, session.scopes FROM user_sessions AS session"
        " JOIN users ON users.id = session.user_id"
        " WHERE session.id = $1 AND session.ended_at IS NULL AND session.expires_at > now()"
        " AND users.disabled_at IS NULL FOR UPDATE OF session",
        family.session_id,
    )
    if row is None:
        return None
    return Session(family.session_id, family.tenant_id, row["user_id"], _scopes(row["scopes"]))


def _scopes(names: Collection[str]) -> frozenset[Scope]:
    # Scopes that a later version has made are none of this one's.
    return frozenset(scope for scope in Scope if scope in names)


async def _add_token(connection: Connection, session: Session, token_hash: bytes) -> None:
    await connection.execute(
        "INSERT INTO refresh_tokens (token_hash, tenant_id, session_id) VALUES ($1, $2, $3)",
        token_hash,
        session.tenant_id,
        session.id,
    )
