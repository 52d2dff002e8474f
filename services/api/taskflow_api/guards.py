"""What a caller may do: every route that isn't open to all names the scope that it needs."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated

from fastapi import Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes

from taskflow.access.scopes import Scope
from taskflow_api.auth import REALM, Principal, authenticate
from taskflow_api.problems import INSUFFICIENT_SCOPE, ProblemError
from taskflow_api.rate_limits.charge import charge

Guard = Callable[..., Awaitable[Principal]]

Operation = tuple[str, str]
"""A method and a path."""

OPEN_OPERATIONS: frozenset[Operation] = frozenset(
    {
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/api/v1/health"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/openapi.json"),
        ("GET", "/docs-assets/{name}"),
        ("POST", "/api/v1/auth/register"),
        ("POST", "/api/v1/auth/token"),
    }
)
"""What can be asked without a key."""

SELF_OPERATIONS: frozenset[Operation] = frozenset(
    {("GET", "/api/v1/auth/me"), ("POST", "/api/v1/auth/logout")}
)
"""What any caller may ask about itself, whatever its scopes."""


async def known(
    request: Request, caller: Annotated[Principal, Security(authenticate)]
) -> Principal:
    """The caller, whatever it may do; one request of its limits is used up.

    Raises:
        ProblemError: 401, it is not known; 429, it has asked too much.
    """
    await charge(request, caller)
    return caller


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
Known = Annotated[Principal, Security(known)]
Admin = Annotated[Principal, Security(permitted, scopes=[Scope.ADMIN])]


def refuse_unguarded(routes: Iterable[APIRoute]) -> None:
    """Deny by default: no method of a route is open that isn't listed as open.

    Raises:
        RuntimeError: a route doesn't name the scope that it needs.
    """
    for route in routes:
        for method in route.methods or ():
            operation = (method, route.path)
            if operation in OPEN_OPERATIONS:
                continue
            guard = known if operation in SELF_OPERATIONS else permitted
            if not _is_guarded(route.dependant, guard):
                raise RuntimeError(
                    f"The route {method} {route.path} doesn't name the scope that it needs."
                )


def _is_guarded(dependant: Dependant, guard: Guard) -> bool:
    return any(
        (inner.call is guard and (guard is known or bool(inner.own_oauth_scopes)))
        or _is_guarded(inner, guard)
        for inner in dependant.dependencies
    )
