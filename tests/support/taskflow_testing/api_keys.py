"""API keys for tests."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import asyncpg

from taskflow.access.api_keys import MadeKey, WantedKey, create
from taskflow.access.audit_log import Origin
from taskflow.access.scopes import ALL_SCOPES, Actor, ActorKind, Scope
from taskflow_testing.jobs import TENANT

ORIGIN = Origin(Actor(ActorKind.SETTINGS, "settings"), "203.0.113.7", "request-1")
"""Whoever makes keys for tests."""


async def make_key(
    connection: asyncpg.Connection,
    *,
    tenant_id: UUID = TENANT,
    scopes: Collection[Scope] = ALL_SCOPES,
    expires_at: datetime | None = None,
) -> MadeKey:
    """A key of this tenant's; the connection sees every row."""
    return await create(connection, tenant_id, WantedKey("test", scopes, expires_at), ORIGIN)
