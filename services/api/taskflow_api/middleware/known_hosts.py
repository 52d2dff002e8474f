"""The names that the service answers to: no page of somebody else's can point its own name here."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow_api.problems import BAD_REQUEST, UNKNOWN_HOST, problem_response

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,255})(?::\d{1,5})?")


class KnownHostsMiddleware:
    """Refuses a request whose Host header names neither an address nor a name from the list."""

    def __init__(self, app: ASGIApp, *, names: Sequence[str]) -> None:
        """`names` are in lower case; `*.example.com` is every name below example.com."""
        self._app = app
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if not hosts and scope["http_version"] == "1.0":
            # Older than the header; what sends it is a load balancer's check, and no browser.
            await self._app(scope, receive, send)
            return
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            response = problem_response(
                scope, BAD_REQUEST, "There must be one Host, a host's name."
            )
            await response(scope, receive, send)
        elif not self._is_known(found["name"].lower().removesuffix(".")):
            detail = "The service doesn't go by this name; TASKFLOW_ALLOWED_HOSTS has its names."
            await problem_response(scope, UNKNOWN_HOST, detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_known(self, name: str) -> bool:
        return name in self._names or name.endswith(self._suffixes) or _is_address(name)


@lru_cache(maxsize=128)
def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
