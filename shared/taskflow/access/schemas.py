"""Keys and the audit log as clients send and get them."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, Strict

from taskflow.access.scopes import ActorKind, Scope
from taskflow.jobs.schemas import ShownTime, Text, Time

MAX_OVERLAP_SECONDS = 30 * 86_400
DEFAULT_OVERLAP_SECONDS = 3_600

KeyName = Annotated[Text, Field(min_length=1, max_length=128)]


class ApiKeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "web shop", "scopes": ["jobs:read", "jobs:write"]},
                {"name": "audit", "scopes": ["admin"], "expires_at": "2040-01-31T00:00:00Z"},
            ]
        },
    )

    name: KeyName = Field(description="What it is for.")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)] = Field(
        description="What it may do; `admin` holds all the others, `queues:write` is reserved."
    )
    expires_at: Time | None = Field(None, description="Not good from this time on.")


class ApiKeyPatch(BaseModel):
    """What may change of a key."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "web shop, Vienna"}]}
    )

    name: KeyName


class ApiKeyRotation(BaseModel):
    """How a new key takes the place of another."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_seconds": 600}, {}]}
    )

    overlap_seconds: Annotated[int, Strict(), Field(ge=0, le=MAX_OVERLAP_SECONDS)] = Field(
        DEFAULT_OVERLAP_SECONDS, description="For how long the old one is good beside the new one."
    )
    expires_at: Time | None = Field(
        None,
        description="When the new one ends. Default: it is good for as long as the old one was.",
    )


class ApiKeyState(StrEnum):
    """Whether a key is good."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ActorView(BaseModel):
    """Who acts."""

    kind: ActorKind
    id: str = Field(description="The id of the key or of the user; an operator's login.")


class ApiKeyView(BaseModel):
    """A key, without its secret."""

    id: UUID
    name: str
    prefix: str = Field(description="How the key begins.")
    scopes: list[Scope]
    state: ApiKeyState
    created_at: ShownTime
    created_by: ActorView
    expires_at: ShownTime | None
    revoked_at: ShownTime | None = Field(
        description="It was revoked, or another took its place; ahead: it is good until then."
    )
    replaces: UUID | None = Field(description="The key whose place it took.")
    last_used_at: ShownTime | None = Field(description="To the minute.")


class NewApiKeyView(ApiKeyView):
    """A key that was just made."""

    key: str = Field(description="The key itself; it is shown now and never again.")


class ApiKeyPage(BaseModel):
    """A page of keys, newest first."""

    items: list[ApiKeyView]
    next_cursor: str | None
    has_more: bool


class ResourceView(BaseModel):
    """What something was done to."""

    kind: str
    id: str


class AuditEntryView(BaseModel):
    """Something that was done."""

    id: UUID
    created_at: ShownTime
    actor: ActorView
    action: str
    resource: ResourceView
    before: dict[str, Any] | None = Field(description="What has changed, as it was.")
    after: dict[str, Any] | None = Field(description="The same as it was from then on.")
    client_address: str | None
    request_id: str | None


class AuditPage(BaseModel):
    """A page of the audit log, newest first."""

    items: list[AuditEntryView]
    next_cursor: str | None
    has_more: bool
