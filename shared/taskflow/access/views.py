"""From rows to the public models."""

from taskflow.access.schemas import ActorView, ApiKeyView, AuditEntryView, ResourceView
from taskflow.access.scopes import Scope
from taskflow.api_key import prefix_of
from taskflow.jobs.views import Row


def api_key_view(row: Row) -> ApiKeyView:
    """A row of `api_keys`, with its state, as clients see it."""
    return ApiKeyView(
        id=row["id"],
        name=row["name"],
        prefix=prefix_of(row["key_id"]),
        scopes=[scope for scope in Scope if scope in row["scopes"]],
        state=row["state"],
        created_at=row["created_at"],
        created_by=ActorView(kind=row["created_by_kind"], id=row["created_by_id"]),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        replaces=row["replaces"],
        last_used_at=row["last_used_at"],
    )


def audit_entry_view(row: Row) -> AuditEntryView:
    """A row of `audit_log` as clients see it."""
    return AuditEntryView(
        id=row["id"],
        created_at=row["created_at"],
        actor=ActorView(kind=row["actor_kind"], id=row["actor_id"]),
        action=row["action"],
        resource=ResourceView(kind=row["resource_kind"], id=row["resource_id"]),
        before=row["before"],
        after=row["after"],
        client_address=row["client_address"],
        request_id=row["request_id"],
    )
