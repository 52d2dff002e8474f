"""What each operation needs, and what becomes of a caller that lacks it."""

import json
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response, Security, WebSocket
from fastapi.routing import APIRoute
from starlette.applications import Starlette

from taskflow.access.scopes import Actor, ActorKind, Scope
from taskflow.db.tenants import DEFAULT_TENANT_ID
from taskflow.settings import ApiSettings
from taskflow_api import routes
from taskflow_api.app import create_app
from taskflow_api.auth import ApiKeys, Principal, authenticate
from taskflow_api.guards import OPEN_OPERATIONS, SELF_OPERATIONS, permitted, refuse_unguarded
from taskflow_api.openapi import openapi_json
from taskflow_testing.problems import check_problem

ID = "0198f1a0-7c4e-7d3a-9f6b-0f8e7c6d5b4a"

NEEDED = {
    "submit_job": "jobs:write",
    "submit_batch": "jobs:write",
    "list_jobs": "jobs:read",
    "count_jobs": "jobs:read",
    "get_job": "jobs:read",
    "change_job": "jobs:write",
    "delete_job": "jobs:write",
    "cancel_job": "jobs:write",
    "retry_job": "jobs:write",
    "list_attempts": "jobs:read",
    "list_events": "jobs:read",
    "get_log": "jobs:read",
    "list_workers": "jobs:read",
    "list_job_types": "jobs:read",
    "get_job_type_schema": "jobs:read",
    "create_api_key": "admin",
    "list_api_keys": "admin",
    "get_api_key": "admin",
    "rename_api_key": "admin",
    "rotate_api_key": "admin",
    "revoke_api_key": "admin",
    "list_audit_log": "admin",
}
"""The scope of every operation that isn't open to everybody."""

OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, item in json.loads(openapi_json())["paths"].items()
    for method, operation in item.items()
    if (method.upper(), path) not in OPEN_OPERATIONS | SELF_OPERATIONS
}


class KeyWith(ApiKeys):
    """Any key has these scopes."""

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = frozenset(scopes)

    async def find(self, key: str) -> Principal | None:
        return Principal(DEFAULT_TENANT_ID, Actor(ActorKind.KEY, key), self._scopes, key)


def give(app: FastAPI, *scopes: Scope) -> None:
    app.state.resources = replace(app.state.resources, api_keys=KeyWith(*scopes))


def test_the_document_names_the_scope_of_every_operation() -> None:
    named = {
        name: {scope for scheme in operation["security"] for scope in next(iter(scheme.values()))}
        for name, (_, _, operation) in OPERATIONS.items()
    }
    assert named == {name: {scope} for name, scope in NEEDED.items()}


@pytest.mark.parametrize("name", NEEDED)
async def test_without_its_scope_an_operation_is_a_403_that_names_it(
    app: FastAPI, api: httpx.AsyncClient, name: str
) -> None:
    method, path, _ = OPERATIONS[name]
    give(app, *(scope for scope in Scope if scope not in (NEEDED[name], Scope.ADMIN)))
    address = path.format(job_type="echo", job_id=ID, api_key_id=ID)
    answer = await api.request(method, address, json={})
    problem = check_problem(answer, 403, "insufficient_scope")
    assert NEEDED[name] in problem["detail"]
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.endswith(f'error="insufficient_scope", scope="{NEEDED[name]}"')


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("admin", [False, True])
async def test_with_its_scope_an_operation_goes_on(
    app: FastAPI, api: httpx.AsyncClient, name: str, admin: bool
) -> None:
    method, path, _ = OPERATIONS[name]
    give(app, Scope.ADMIN if admin else Scope(NEEDED[name]))
    # Not even the address is looked at before.
    address = path.format(job_type="%00", job_id="x", api_key_id="x")
    answer = await api.request(method, address, params={"limit": "x"}, content=b"{")
    assert answer.status_code in (415, 422, 503)


def test_to_know_the_caller_is_no_guard() -> None:
    router = APIRouter()

    @router.get("/known", dependencies=[Security(authenticate, scopes=["admin"])])
    async def known() -> None: ...

    @router.get("/no-scope", dependencies=[Security(permitted)])
    async def no_scope() -> None: ...

    for route in router.routes:
        assert isinstance(route, APIRoute)
        with pytest.raises(RuntimeError, match="scope"):
            refuse_unguarded([route])


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/auth/token", "/api/v1/auth/me"])
def test_another_method_of_an_open_path_is_not_open(path: str) -> None:
    router = APIRouter()

    @router.api_route(path, methods=["DELETE"])
    async def new() -> None: ...

    [route] = router.routes
    assert isinstance(route, APIRoute)
    with pytest.raises(RuntimeError, match=f"DELETE {path} .*scope"):
        refuse_unguarded([route])


def _with_a_socket(router: APIRouter) -> None:
    @router.websocket("/api/v1/ws")
    async def live(socket: WebSocket) -> None: ...


def _with_a_mount(router: APIRouter) -> None:
    router.mount("/files", Starlette())


def _with_a_router_inside(router: APIRouter) -> None:
    inner = APIRouter()

    @inner.get("/inner")
    async def inside() -> None: ...

    router.include_router(inner)


def _with_a_plain_route(router: APIRouter) -> None:
    router.add_route("/plain", lambda _: Response())


@pytest.mark.parametrize(
    "add", [_with_a_socket, _with_a_mount, _with_a_router_inside, _with_a_plain_route]
)
def test_what_no_guard_is_known_for_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, settings: ApiSettings, add: Callable[[APIRouter], None]
) -> None:
    router = APIRouter()
    add(router)
    monkeypatch.setattr(routes, "ROUTERS", [*routes.ROUTERS, router])
    with pytest.raises(TypeError, match="No guard is known"):
        create_app(settings)


def test_nothing_is_served_but_what_the_routers_have(app: FastAPI) -> None:
    assert len(app.routes) == len(routes.ROUTERS)


@pytest.mark.parametrize("name", ["api_key", "X-API-Key", "access_token", "token", "ticket"])
async def test_a_key_in_the_address_opens_nothing(api: httpx.AsyncClient, name: str) -> None:
    key = api.headers.pop("X-API-Key")
    check_problem(await api.get("/api/v1/auth/me", params={name: key}), 401, "not_authenticated")
