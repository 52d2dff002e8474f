"""The reads of keys and of the audit log, composed with SQLAlchemy Core."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, Select, Table, case, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow.access.errors import ApiKeyNotFound
from taskflow.access.schemas import ApiKeyState
from taskflow.db.models import api_keys, audit_log
from taskflow.jobs.cursors import Position
from taskflow.jobs.queries import Page

# The hash of the secret is not a request's to read.
_API_KEY = select(
    *(column for column in api_keys.c if column is not api_keys.c.secret_hash),
    case(
        (api_keys.c.revoked_at <= func.now(), ApiKeyState.REVOKED),
        (api_keys.c.expires_at <= func.now(), ApiKeyState.EXPIRED),
        else_=ApiKeyState.ACTIVE,
    ).label("state"),
)


async def get_api_key(connection: AsyncConnection, tenant_id: UUID, api_key_id: UUID) -> RowMapping:
    """A key's row, with its state.

    Raises:
        ApiKeyNotFound: this tenant has no such key.
    """
    statement = _API_KEY.where(api_keys.c.tenant_id == tenant_id, api_keys.c.id == api_key_id)
    row = (await connection.execute(statement)).mappings().one_or_none()
    if row is None:
        raise ApiKeyNotFound(api_key_id)
    return row


async def list_api_keys(
    connection: AsyncConnection, tenant_id: UUID, *, after: Position | None, limit: int
) -> Page:
    """A page of keys, newest first, those that are not good any more among them."""
    statement = _API_KEY.where(api_keys.c.tenant_id == tenant_id)
    return await _page(connection, statement, api_keys, after=after, limit=limit)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What the log is narrowed to; an empty member doesn't narrow."""

    actors: Sequence[str] = ()
    actions: Sequence[str] = ()
    resources: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None

    def clauses(self, tenant_id: UUID) -> list[ColumnElement[bool]]:
        """The WHERE of a list."""
        log = audit_log.c
        found = [log.tenant_id == tenant_id]
        for column, values in (
            (log.actor_id, self.actors),
            (log.action, self.actions),
            (log.resource_id, self.resources),
        ):
            if values:
                found.append(column.in_(values))
        if self.created_after is not None:
            found.append(log.created_at >= self.created_after)
        if self.created_before is not None:
            found.append(log.created_at < self.created_before)
        return found


async def list_audit_log(
    connection: AsyncConnection,
    tenant_id: UUID,
    wanted: AuditFilter,
    *,
    after: Position | None,
    limit: int,
) -> Page:
    """A page of the log, newest first."""
    statement = select(audit_log).where(*wanted.clauses(tenant_id))
    return await _page(connection, statement, audit_log, after=after, limit=limit)


async def _page(
    connection: AsyncConnection,
    statement: Select[Any],
    table: Table,
    *,
    after: Position | None,
    limit: int,
) -> Page:
    """By keyset: later arrivals shift nothing."""
    place = tuple_(table.c.created_at, table.c.id)
    if after is not None:
        statement = statement.where(place < tuple_(after.created_at, after.id))
    statement = statement.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
    rows = (await connection.execute(statement)).mappings().all()
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], Position(last["created_at"], last["id"]))
