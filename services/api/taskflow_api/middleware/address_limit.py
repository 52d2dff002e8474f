"""The limit of requests by a client's address, before anything is known of who it is.

Counted by SlowAPI's limiter in this process's memory: its Redis storage would block the loop. Its
own middlewares aren't used: one is a BaseHTTPMiddleware, the other starts a streamed answer anew
with each of its pieces, and both let through whatever no route matches.
"""

import math
import threading
import time
from collections.abc import Sequence
from typing import cast

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from slowapi import Limiter
from starlette.types import ASGIApp, Receive, Scope, Send

from taskflow.setting_types import Network
from taskflow_api.added_headers import add_headers
from taskflow_api.client_address import client_address, contains, limit_key
from taskflow_api.problems import TOO_MANY_REQUESTS, problem_response

MAX_COUNTERS = 20_000
"""From here on whole networks are counted, which bounds the memory and the time of a sweep."""

SWEEP_SECONDS = 1.0

_POLICY = "address"


class AddressLimitMiddleware:
    """Refuses an address that asks too often: 429, with when to come again."""

    def __init__(
        self, app: ASGIApp, *, requests: int, seconds: int, unlimited: Sequence[Network]
    ) -> None:
        """So many `requests` in any `seconds`, but of `unlimited` addresses any number."""
        self._app = app
        self._unlimited = unlimited
        self._limit: RateLimitItem = RateLimitItemPerSecond(requests, seconds)
        # The window slides: no burst of twice the limit around the turn of a fixed one.
        self._limiter = Limiter(
            key_func=client_address, storage_uri="memory://", strategy="sliding-window-counter"
        ).limiter
        self._storage = cast("MemoryStorage", self._limiter.storage)
        self._storage.timer.cancel()
        self._storage.timer = _NoTimer(0, lambda: None)
        self._sweep_at = 0.0
        self._policy = f'"{_POLICY}";q={requests};w={seconds}'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or contains(self._unlimited, address := client_address(scope)):
            await self._app(scope, receive, send)
            return
        self._sweep()
        key = limit_key(address, is_wide=len(self._storage.storage) > MAX_COUNTERS)
        allowed = self._limiter.hit(self._limit, _POLICY, key)
        window = self._limiter.get_window_stats(self._limit, _POLICY, key)
        resets_in = max(1, math.ceil(window.reset_time - time.time()))

        left = f'"{_POLICY}";r={window.remaining};t={resets_in}'.encode()
        add_headers(scope, _POLICY, [(b"ratelimit-policy", self._policy), (b"ratelimit", left)])
        if allowed:
            await self._app(scope, receive, send)
            return
        detail = "Too many requests come from this address."
        response = problem_response(
            scope, TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(resets_in)}
        )
        await response(scope, receive, send)

    def _sweep(self) -> None:
        """Let go of counters that have expired, once a second by a clock that nobody puts back."""
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_SECONDS
        now = time.time()
        for key in [key for key, at in self._storage.expirations.items() if at <= now]:
            self._storage.get(key)  # Which drops it.


class _NoTimer(threading.Timer):
    """In place of the storage's timer: a thread that sweeps, and under load a new one each 10 ms.

    Each would take the interpreter's lock from the loop.
    """

    def is_alive(self) -> bool:
        """As the storage starts another one else."""
        return True
