"""Users: who they are, and the tenant that each begins with."""

from dataclasses import dataclass, field
from uuid import UUID

from taskflow.db.pool import Connection


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to insert, and the tenant of its own; `email` in lower case."""

    id: UUID
    tenant_id: UUID
    email: str
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KnownUser:
    """A user as signing in needs it."""

    id: UUID
    tenant_id: UUID
    password_hash: str = field(repr=False)
    is_disabled: bool
    is_at_home: bool
    """Whether a session of it has begun at this address before."""


async def add_tenant(connection: Connection, tenant_id: UUID) -> None:
    """Insert a tenant that a registration makes, in its own name; it is called like its id."""
    await connection.execute(
        "INSERT INTO tenants (id, name, is_registered) VALUES ($1, $2, true)",
        tenant_id,
        str(tenant_id),
    )


async def add_user(connection: Connection, user: NewUser) -> bool:
    """Insert a user, in its tenant's name; False: its address is taken, by whomever."""
    done = await connection.execute(
        "INSERT INTO users (id, tenant_id, email, password_hash) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (email) DO NOTHING",
        user.id,
        user.tenant_id,
        user.email,
        user.password_hash,
    )
    return done == "INSERT 0 1"


async def find_user(connection: Connection, email: str, address: str) -> KnownUser | None:
    """The user of an address for mail, in nobody's name; `address` is where it signs in from."""
    row = await connection.fetchrow(
        "SELECT id, tenant_id, password_hash, disabled_at IS NOT NULL AS is_disabled,"
        " EXISTS (SELECT FROM user_sessions AS past"
        "  WHERE past.user_id = users.id AND past.address = $2) AS is_at_home"
        " FROM users WHERE email = $1",
        email,
        address,
    )
    return None if row is None else KnownUser(**row)


async def find_email(connection: Connection, user_id: UUID) -> str | None:
    """The address of a user, in its tenant's name."""
    found: str | None = await connection.fetchval("SELECT email FROM users WHERE id = $1", user_id)
    return found


async def set_password_hash(connection: Connection, user_id: UUID, password_hash: str) -> None:
    """Keep another hash of a user's password, in its tenant's name."""
    await connection.execute(
        "UPDATE users SET password_hash = $2 WHERE id = $1", user_id, password_hash
    )
