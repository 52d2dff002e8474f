"""What a caller may do: every route but health and documentation names the scope that it needs."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes

from taskflow.access.scopes import Scope
from taskflow_api.auth import REALM, Principal, authenticate
from taskflow_api.problems import INSUFFICIENT_SCOPE, ProblemError
from taskflow_api.rate_limits.charge import charge

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


async def permitted(
    request: Request,
    needed: SecurityScopes,
    caller: Annotated[Principal, Security(authenticate)],
) -> Principal:
    """The caller, who holds the scope of the route; one request of its limits is used up.

    Raises:
        ProblemError: 401, it is not known; 429, it has asked too much; 403, it lacks the scope.
    """
    await charge(request, caller)
    for scope in map(Scope, needed.scopes):
        if not caller.holds(scope):
            raise ProblemError(
                INSUFFICIENT_SCOPE,
                f"This needs the scope {scope}.",
                headers={
                    "WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{scope}"'
                },
            )
    return caller


JobReader = Annotated[Principal, Security(permitted, scopes=[Scope.JOBS_READ])]
JobWriter = Annotated[Principal, Security(permitted, scopes=[Scope.JOBS_WRITE])]
QueueWriter = Annotated[Principal, Security(permitted, scopes=[Scope.QUEUES_WRITE])]
Admin = Annotated[Principal, Security(permitted, scopes=[Scope.ADMIN])]


def refuse_unguarded(routes: Iterable[APIRoute]) -> None:
    """Deny by default: no route is open that isn't listed as open.

    Raises:
        RuntimeError: a route doesn't name the scope that it needs.
    """
    for route in routes:
        if route.path not in OPEN_PATHS and not _is_guarded(route.dependant):
            raise RuntimeError(f"The route {route.path} doesn't name the scope that it needs.")


def _is_guarded(dependant: Dependant) -> bool:
    return any(
        (inner.call is permitted and bool(inner.own_oauth_scopes)) or _is_guarded(inner)
        for inner in dependant.dependencies
    )
