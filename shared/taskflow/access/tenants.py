"""The tenants: made by an operator, who works as the owner of the tables, and found by others."""

from uuid import UUID

from taskflow.access.audit_log import Act, Origin, record
from taskflow.db.pool import Connection
from taskflow.db.tenants import Session, TenantConnection, begin_for


async def find_tenant(session: Session, name: str) -> UUID | None:
    """The tenant of this name."""
    found: UUID | None = await session.fetchval("SELECT id FROM tenants WHERE name = $1", name)
    return found


async def tenant_named(connection: Connection, text: str) -> UUID | None:
    """The tenant that has this id or this name, asked in nobody's name (role API)."""
    try:
        tenant_id = UUID(text)
    except ValueError:
        tenant_id = None
    found: UUID | None = await connection.fetchval(
        "SELECT id FROM tenants WHERE id = $1 OR name = $2", tenant_id, text
    )
    return found


async def is_registered(connection: Connection, tenant_id: UUID) -> bool:
    """Whether a registration made the tenant, asked in nobody's name (role API)."""
    found = await connection.fetchval("SELECT is_registered FROM tenants WHERE id = $1", tenant_id)
    return bool(found)


async def create_tenant(session: Session, tenant_id: UUID, name: str, origin: Origin) -> None:
    """Make a tenant, and write it down in its own log.

    Raises:
        asyncpg.UniqueViolationError: there is one of this name.
    """
    connection = TenantConnection(session, begin_for(tenant_id))
    async with connection.transaction():
        await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, $2)", tenant_id, name)
        act = Act("tenant.create", "tenant", str(tenant_id), after={"name": name})
        await record(connection, tenant_id, origin, act)
