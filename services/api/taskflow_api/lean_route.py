"""A route whose dependencies are laid out once, when it is made, and then only called.

FastAPI looks at the declarations of an endpoint anew for each request, and each one goes through
every router until one knows its address: that takes longer than all that a submission does itself.
Here the same declarations are read once: what guards a route, and what the documentation says about
it, stays in one place.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, _effective_route_context_var
from fastapi.security import SecurityScopes
from starlette.types import ASGIApp, Receive, Scope, Send

_Endpoint = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Step:
    """One call: the names of its arguments, each with where its value comes from."""

    call: _Endpoint
    request_as: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    constants: dict[str, Any]
    earlier: tuple[tuple[str, int], ...]
    """The steps, by their places, whose values it is given."""

    def arguments(self, request: Request, values: list[Any]) -> dict[str, Any]:
        given = dict(self.constants)
        for name in self.request_as:
            given[name] = request
        for name, header in self.headers:
            given[name] = request.headers.get(header)
        for name, place in self.earlier:
            given[name] = values[place]
        return given


class LeanRoute(APIRoute):
    """For endpoints that answer with a response, and depend on the request and its headers alone.

    A dependency that two others have in common is called for each of them.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request (a hook of FastAPI's for this).

        Raises:
            TypeError: a dependency needs what is not looked for here.
        """
        # FastAPI makes a handler for the route itself, and one for where it is included, which may
        # add guards of its own.
        included = _effective_route_context_var.get()
        if included is not None and included.original_route is self:
            steps = list(_steps_of(included.dependant, start=0))
        else:
            steps = list(_steps_of(self.dependant, start=0))

        async def answer(request: Request) -> Response:
            values: list[Any] = []
            for step in steps:
                values.append(await step.call(**step.arguments(request, values)))
            response: Response = values[-1]
            return response

        return answer


class LeanRoutesMiddleware:
    """Serves these routes by their addresses, before the application looks for a route.

    What guards a route has to be said where it is declared: what only the application, or the
    inclusion of its router, would ask for is not asked here.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[APIRoute]) -> None:
        """Of `routes` those that are lean are served, the others left to `app`."""
        self._app = app
        self._answers = {
            (method, route.path): route.get_route_handler()
            for route in routes
            if isinstance(route, LeanRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        answer = scope["type"] == "http" and self._answers.get((scope["method"], scope["path"]))
        if not answer:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await answer(request)
        except Exception as error:  # noqa: BLE001 - what no handler knows is raised again
            response = await _answer_to(request, error)
        await response(scope, receive, send)


async def _answer_to(request: Request, error: Exception) -> Response:
    """What the application's handlers make of an error; the error itself where there is none."""
    handlers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers:
            response: Response = await handlers[kind](request, error)
            return response
    raise error


def _steps_of(dependant: Dependant, *, start: int) -> Iterator[_Step]:
    """Those of what it depends on, and its own at the end; the first one's place is `start`."""
    place = start
    earlier = []
    for inner in dependant.dependencies:
        steps = list(_steps_of(inner, start=place))
        yield from steps
        place += len(steps)
        if inner.name is not None:
            earlier.append((inner.name, place - 1))
    constants = {}
    if dependant.security_scopes_param_name is not None:
        constants[dependant.security_scopes_param_name] = SecurityScopes(_scopes_of(dependant))
    yield _Step(
        call=_call_of(dependant),
        request_as=tuple(
            name
            for name in (dependant.request_param_name, dependant.http_connection_param_name)
            if name is not None
        ),
        headers=tuple((field.name, field.alias) for field in dependant.header_params),
        constants=constants,
        earlier=tuple(earlier),
    )


def _scopes_of(dependant: Dependant) -> list[str]:
    return [*(dependant.parent_oauth_scopes or ()), *(dependant.own_oauth_scopes or ())]


def _call_of(dependant: Dependant) -> _Endpoint:
    others = (
        dependant.path_params or dependant.query_params or dependant.cookie_params
        or dependant.body_params or dependant.websocket_param_name
        or dependant.response_param_name or dependant.background_tasks_param_name
        or not all(_is_plain(header) for header in dependant.header_params)
    )  # fmt: skip
    if others or dependant.call is None:
        raise TypeError(f"{dependant.call!r} needs more than the request and its headers.")
    return dependant.call


def _is_plain(header: ModelField) -> bool:
    """Whether nothing is asked of it: its text, or None, is as good as any."""
    declared = header.field_info
    return (
        declared.annotation == (str | None) and declared.default is None and not declared.metadata
    )
