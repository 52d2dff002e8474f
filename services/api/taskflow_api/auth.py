"""Who calls: a key or a token becomes a principal. What that may do, `guards` decides."""

import hmac
import re
from dataclasses import dataclass
from typing import Annotated, Protocol
from uuid import UUID

from fastapi import Request, Security
from fastapi.security import (
    APIKeyHeader,
    HTTPAuthorizationCredentials,
    HTTPBearer,
    OAuth2PasswordBearer,
)

from taskflow.access.scopes import ALL_SCOPES, Actor, ActorKind, Scope
from taskflow.api_key import MalformedApiKey, digest_of, parse
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow_api.problems import NOT_AUTHENTICATED, ProblemError
from taskflow_api.stored_keys import KeyUses, StoredKeys
from taskflow_api.users.errors import InvalidToken

SETTINGS_KEY_ID = "settings"
"""The id of the key from the settings."""

REALM = 'Bearer realm="taskflow"'

TOKEN_PATH = "/api/v1/auth/token"  # noqa: S105 - an address
"""Where tokens are given."""

_TOKEN = re.compile(r"[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*")
"""What has the form of a JWT; of keys that of the settings alone may have it."""

_api_key_header = APIKeyHeader(
    name="X-API-Key", scheme_name="ApiKey", description="An API key.", auto_error=False
)
_bearer = HTTPBearer(
    scheme_name="Bearer",
    description="An API key or an access token as a bearer token.",
    auto_error=False,
)
_password = OAuth2PasswordBearer(
    TOKEN_PATH,
    scheme_name="User",
    description="An address and a password; client_id and client_secret stay empty.",
    scopes={
        Scope.JOBS_READ: "Read jobs and their logs.",
        Scope.JOBS_WRITE: "Submit, change, cancel, retry and delete jobs.",
        Scope.QUEUES_WRITE: "Reserved: nothing needs it yet.",
        Scope.ADMIN: "Keys and the audit log, and all of the above.",
    },
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: what it may see is what belongs to its tenant."""

    tenant_id: UUID
    actor: Actor
    scopes: frozenset[Scope]
    key_id: str | None = None
    """The id of the key that it came with; None for who has none."""
    session_id: UUID | None = None
    """The session of a user that has signed in here."""

    def holds(self, scope: Scope) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Tokens(Protocol):
    """What is asked about tokens."""

    async def principal_of(self, token: str) -> Principal:
        """Who comes with this token; InvalidToken if nobody does."""


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
    # The same header, told in the way that the documentation's button needs.
    _token: Annotated[str | None, Security(_password)],
) -> Principal:
    """The caller by its key, `X-API-Key`, else by `Authorization: Bearer`, a key or a token.

    Raises:
        ProblemError: 401, there is neither, or it is not known.
        ServiceUnavailable: who has to be asked about it is away.
    """
    key = api_key or (bearer and bearer.credentials)
    if not key:
        raise ProblemError(
            NOT_AUTHENTICATED,
            "Send an API key as X-API-Key, or a key or an access token as Authorization: Bearer.",
            headers={"WWW-Authenticate": REALM},
        )
    keys: ApiKeys = request.app.state.resources.api_keys
    principal = await keys.find(key)
    if principal is not None:
        return principal
    if api_key or not _TOKEN.fullmatch(key):
        raise _not_authenticated(
            "The API key is not valid: it is mistyped or unknown, was revoked or has expired."
        )
    tokens: Tokens = request.app.state.resources.users.callers
    try:
        return await tokens.principal_of(key)
    except InvalidToken as error:
        raise _not_authenticated(str(error)) from error


def _not_authenticated(detail: str) -> ProblemError:
    headers = {"WWW-Authenticate": f'{REALM}, error="invalid_token"'}
    return ProblemError(NOT_AUTHENTICATED, detail, headers=headers)
