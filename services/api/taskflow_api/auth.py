"""Who calls: a key becomes a principal. What that may do, `guards` decides."""

import hmac
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from taskflow.access.scopes import ALL_SCOPES, Actor, ActorKind, Scope
from taskflow.api_key import MalformedApiKey, digest_of, parse
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow_api.problems import NOT_AUTHENTICATED, ProblemError
from taskflow_api.stored_keys import KeyUses, StoredKeys

SETTINGS_KEY_ID = "settings"
"""The id of the key from the settings."""

REALM = 'Bearer realm="taskflow"'

_api_key_header = APIKeyHeader(
    name="X-API-Key", scheme_name="ApiKey", description="An API key.", auto_error=False
)
_bearer = HTTPBearer(
    scheme_name="Bearer", description="The API key as a bearer token.", auto_error=False
)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: what it may see is what belongs to its tenant."""

    tenant_id: UUID
    actor: Actor
    scopes: frozenset[Scope]
    key_id: str | None = None
    """The id of the key that it came with; None for who has none."""

    def holds(self, scope: Scope) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class ApiKeys:
    """The keys that are known: the one of the settings, and those in PostgreSQL."""

    def __init__(self, settings_key: str, stored: StoredKeys, uses: KeyUses) -> None:
        self._settings_digest = digest_of(settings_key)
        self._stored = stored
        self._uses = uses

    async def find(self, key: str) -> Principal | None:
        """The principal of a key, or None. Takes as long for a near miss as for a far one.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked; the key of the settings needs no asking.
        """
        digest = digest_of(key)
        if hmac.compare_digest(digest, self._settings_digest):
            actor = Actor(ActorKind.SETTINGS, SETTINGS_KEY_ID)
            return Principal(DEFAULT_TENANT_ID, actor, ALL_SCOPES, SETTINGS_KEY_ID)
        try:
            key_id = parse(key).key_id
        except MalformedApiKey:
            return None
        stored = await self._stored.get(key_id)
        if stored is None or not hmac.compare_digest(digest, stored.secret_hash):
            return None
        self._uses.note(stored.id)
        actor = Actor(ActorKind.KEY, str(stored.id))
        return Principal(stored.tenant_id, actor, stored.scopes, str(stored.id))


async def authenticate(
    request: Request,
    api_key: Annotated[str | None, Security(_api_key_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Principal:
    """The caller by its key: `X-API-Key`, else `Authorization: Bearer`.

    Raises:
        ProblemError: 401, there is no key or it is not known.
    """
    key = api_key or (bearer and bearer.credentials)
    if not key:
        raise ProblemError(
            NOT_AUTHENTICATED,
            "Send an API key as X-API-Key or as Authorization: Bearer.",
            headers={"WWW-Authenticate": REALM},
        )
    keys: ApiKeys = request.app.state.resources.api_keys
    principal = await keys.find(key)
    if principal is None:
        raise ProblemError(
            NOT_AUTHENTICATED,
            "The API key is not valid: it is mistyped or unknown, was revoked or has expired.",
            headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
        )
    return principal
