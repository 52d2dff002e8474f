"""Answers that may be a moment old: one question at a time for each key, and a bounded memory."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

MAX_ENTRIES = 10_000


class Recent(Generic[Key, Value]):
    """Asks, and remembers what was said; an error is told to who waits and is not remembered.

    What it says was true after the moment `seconds` ago, however long the answer took.
    """

    def __init__(
        self,
        ask: Callable[[Key], Awaitable[Value]],
        *,
        seconds: float,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._max_entries = max_entries
        self._asked: OrderedDict[Key, tuple[float, asyncio.Task[Value]]] = OrderedDict()

    async def get(self, key: Key) -> Value:
        """The answer for a key; raises what `ask` raises."""
        now = time.monotonic()
        asked_at, asking = self._asked.get(key, (-1.0, None))
        if asking is None or now - asked_at > self._seconds:
            asking = asyncio.create_task(self._find(key), name="ask", context=Context())
            self._remember(key, now, asking)
        # Others wait for it too, so the end of one caller must not end it.
        return await asyncio.shield(asking)

    def forget(self, key: Key) -> None:
        """Ask anew for this key."""
        self._asked.pop(key, None)

    async def _find(self, key: Key) -> Value:
        return await self._ask(key)

    def _remember(self, key: Key, now: float, asking: "asyncio.Task[Value]") -> None:
        self._asked[key] = (now, asking)
        self._asked.move_to_end(key)
        asking.add_done_callback(lambda done: self._forget_failure(key, done))
        while len(self._asked) > self._max_entries:
            self._asked.popitem(last=False)

    def _forget_failure(self, key: Key, done: "asyncio.Task[Value]") -> None:
        if not done.cancelled() and done.exception() is None:
            return
        if self._asked.get(key, (0.0, None))[1] is done:
            del self._asked[key]
