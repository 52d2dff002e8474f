"""Who did what: written by the transaction that does it; there is neither without the other."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from taskflow.access.scopes import Actor
from taskflow.db.pool import Connection


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for it, from where, and in which request."""

    actor: Actor
    client_address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """What was done: `api_key.create`, and what it was done to."""

    action: str
    resource_kind: str
    resource_id: str
    before: dict[str, Any] | None = None
    """What has changed, as it was, as JSON. Nobody may learn a secret by it."""
    after: dict[str, Any] | None = None
    """The same as it is now."""


_RECORD = """
INSERT INTO audit_log (id, tenant_id, actor_kind, actor_id, action, resource_kind, resource_id,
                       before, after, client_address, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb, $10, $11)
"""


async def record(connection: Connection, tenant_id: UUID, origin: Origin, act: Act) -> None:
    """Write it down, in the caller's transaction, which is made in the tenant's name."""
    await connection.execute(
        _RECORD,
        uuid7(),
        tenant_id,
        origin.actor.kind,
        origin.actor.id,
        act.action,
        act.resource_kind,
        act.resource_id,
        _json(act.before),
        _json(act.after),
        origin.client_address,
        origin.request_id,
    )


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
