"""Reads that requests share without any of them being told what was true before it asked."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

PATIENCE_SECONDS = 0.05
"""For how long a read waits for the one that is under way, which may be a slow one."""


class JoinedReads(Generic[Key, Value]):
    """One read for all who come before it begins; who comes while it is under way has the next.

    So nobody's answer is older than that of a read of its own, nothing is kept, and however many
    ask at once, each read answers all who have come since the one before.
    """

    def __init__(self, read: Callable[[Key], Awaitable[Value]]) -> None:
        self._read = read
        self._coming: dict[Key, asyncio.Task[Value]] = {}
        """Reads that have not begun."""
        self._under_way: dict[Key, asyncio.Task[Value]] = {}

    async def get(self, key: Key) -> Value:
        """What is true for the key now; raises what `read` raises."""
        coming = self._coming.get(key)
        if coming is None:
            before = self._under_way.get(key)
            coming = asyncio.create_task(self._run(key, before), name="read", context=Context())
            self._coming[key] = coming
            coming.add_done_callback(lambda done: self._end(key, done))
        # Others wait for it too, so the end of one caller must not end it.
        return await asyncio.shield(coming)

    async def _run(self, key: Key, before: "asyncio.Task[Value] | None") -> Value:
        if before is not None:
            await asyncio.wait([before], timeout=PATIENCE_SECONDS)
        # From here on nobody joins it.
        self._under_way[key] = self._coming.pop(key)
        return await self._read(key)

    def _end(self, key: Key, done: "asyncio.Task[Value]") -> None:
        if self._under_way.get(key) is done:
            del self._under_way[key]
        if self._coming.get(key) is done:  # Cancelled before it began, as a loop ends.
            del self._coming[key]
        if not done.cancelled():
            done.exception()  # Marks it as seen where every caller has gone.
