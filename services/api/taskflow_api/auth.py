"""Who calls: every route but health and documentation names `authenticate` as its guard."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow_api.problems import NOT_AUTHENTICATED, ProblemError

SETTINGS_KEY_ID = "settings"
"""The id of the key from the settings."""

OPEN_PATHS = frozenset(
    {
        "/",
        "/healthz",
        "/readyz",
        "/api/v1/health",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/docs-assets/{name}",
    }
)
"""What can be asked without a key."""

_REALM = 'Bearer realm="taskflow"'

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
    key_id: str | None = None
    """The key that it came with; None for who has none."""


class ApiKeys:
    """The keys that are known; today the one of the settings."""

    def __init__(self, key: str) -> None:
        self._digest = _digest(key)

    def find(self, key: str) -> Principal | None:
        """The principal of a key, or None. Takes as long for a near miss as for a far one."""
        if hmac.compare_digest(_digest(key), self._digest):
            return Principal(DEFAULT_TENANT_ID, SETTINGS_KEY_ID)
        return None


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
            headers={"WWW-Authenticate": _REALM},
        )
    keys: ApiKeys = request.app.state.resources.api_keys
    principal = keys.find(key)
    if principal is None:
        raise ProblemError(
            NOT_AUTHENTICATED,
            "The API key is not valid.",
            headers={"WWW-Authenticate": f'{_REALM}, error="invalid_token"'},
        )
    return principal


def refuse_unguarded(routes: Iterable[APIRoute]) -> None:
    """Deny by default: no route is open that isn't listed as open.

    Raises:
        RuntimeError: a route names no guard.
    """
    for route in routes:
        if route.path not in OPEN_PATHS and not _is_guarded(route.dependant):
            raise RuntimeError(f"The route {route.path} doesn't name its guard.")


def _is_guarded(dependant: Dependant) -> bool:
    return any(inner.call is authenticate or _is_guarded(inner) for inner in dependant.dependencies)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
