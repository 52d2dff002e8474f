"""The route that is laid out once answers as FastAPI's own does."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import (
    APIRouter,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    Security,
)
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, SecurityScopes
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response

from taskflow_api.lean_route import LeanRoute, LeanRoutesMiddleware

PLACES = ("application", "inclusion", "router")
KEY = APIKeyHeader(name="X-Key", auto_error=False)


class Refused(Exception):
    """What a guard raises here."""


async def caller(request: Request, key: Annotated[str | None, Security(KEY)]) -> str:
    return f"{key} at {request.url.path}"


async def guard(needed: SecurityScopes, who: Annotated[str, Security(caller)]) -> str:
    if who.startswith("nobody"):
        raise Refused
    return f"{who} with {' '.join(needed.scopes)}"


async def wish(
    wish: Annotated[str | None, Header(alias="X-Wish")] = None,
    other_wish: Annotated[str | None, Header()] = None,
) -> list[str | None]:
    return [wish, other_wish]


async def endpoint(
    request: Request,
    who: Annotated[str, Security(guard, scopes=["write", "read"])],
    wishes: Annotated[list[str | None], Depends(wish)],
) -> Response:
    said: dict[str, Any] = {"method": request.method, "who": who, "wishes": wishes}
    return JSONResponse(said, 202)


def client_of(
    route_class: type[APIRoute], *, by_address: bool = False, endpoint: Any = endpoint
) -> httpx.AsyncClient:
    """`by_address`: what is lean is served before the application looks for a route."""
    router = APIRouter(route_class=route_class)
    router.add_api_route("/things", endpoint, methods=["POST"])
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    layers = [Middleware(LeanRoutesMiddleware, routes=routes)] if by_address else []
    app = FastAPI(middleware=layers)
    app.include_router(router)

    @app.exception_handler(Refused)
    async def refuse(_request: Request, _error: Exception) -> Response:
        return JSONResponse({}, 403)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Key", "k"), ("X-Wish", "a"), ("Other-Wish", "b")],
        [("X-Key", "k"), ("X-Wish", "first"), ("X-Wish", "second")],
        [("X-Key", "nobody")],
        [("X-Key", ""), ("X-Wish", "")],
    ],
)
async def test_it_answers_as_the_usual_route_does(headers: list[tuple[str, str]]) -> None:
    answers = []
    for route_class, by_address in ((APIRoute, False), (LeanRoute, False), (LeanRoute, True)):
        async with client_of(route_class, by_address=by_address) as client:
            answer = await client.post("/things", headers=headers)
            answers.append((answer.status_code, answer.json()))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] in {202, 403}


@pytest.mark.parametrize("by_address", [False, True])
async def test_what_the_route_does_not_serve_is_left_to_the_application(by_address: bool) -> None:
    async with client_of(LeanRoute, by_address=by_address) as client:
        assert (await client.get("/things")).status_code == 405
        assert (await client.post("/nothing")).status_code == 404


@pytest.mark.parametrize("route_class", [APIRoute, LeanRoute])
async def test_only_lean_routes_are_served_by_their_addresses(route_class: type[APIRoute]) -> None:
    async def route_of(request: Request) -> Response:
        return JSONResponse("route" in request.scope)

    async with client_of(route_class, by_address=True, endpoint=route_of) as client:
        answer = await client.post("/things")
    assert answer.json() is (route_class is APIRoute)


async def test_an_error_that_no_handler_knows_goes_on() -> None:
    async def broken() -> Response:
        raise LookupError("broken")

    async with client_of(LeanRoute, by_address=True, endpoint=broken) as client:
        with pytest.raises(LookupError, match="broken"):
            await client.post("/things")


@pytest.mark.parametrize("route_class", [APIRoute, LeanRoute])
@pytest.mark.parametrize("where", PLACES)
async def test_guards_of_where_it_is_included_hold(route_class: type[APIRoute], where: str) -> None:
    async def nobody() -> None:
        raise HTTPException(403)

    at = {each: [Depends(nobody)] if each == where else [] for each in PLACES}
    router = APIRouter(route_class=route_class, dependencies=at["router"])
    router.add_api_route("/things", endpoint, methods=["POST"])
    app = FastAPI(dependencies=at["application"])
    app.include_router(router, dependencies=at["inclusion"])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        assert (await client.post("/things", headers={"X-Key": "k"})).status_code == 403


async def in_query(text: Annotated[str, Query()]) -> None: ...


async def in_cookie(text: Annotated[str, Cookie()]) -> None: ...


async def in_body(text: dict[str, str]) -> None: ...


async def required(text: Annotated[str | None, Header()]) -> None: ...


async def with_default(text: Annotated[str | None, Header()] = "none") -> None: ...


async def number(count: Annotated[int | None, Header()] = None) -> None: ...


async def short(text: Annotated[str | None, Header(max_length=3)] = None) -> None: ...


@pytest.mark.parametrize(
    "needed", [in_query, in_cookie, in_body, required, with_default, number, short]
)
def test_what_needs_more_than_headers_is_refused_when_the_route_is_made(needed: Any) -> None:
    async def depends(found: Annotated[None, Depends(needed)]) -> Response:
        raise AssertionError(found)

    with pytest.raises(TypeError, match="needs more than the request and its headers"):
        LeanRoute("/things", depends, methods=["POST"])


def test_a_path_with_parameters_is_refused() -> None:
    async def named(name: str) -> Response:
        raise AssertionError(name)

    with pytest.raises(TypeError, match="needs more"):
        LeanRoute("/things/{name}", named, methods=["POST"])
