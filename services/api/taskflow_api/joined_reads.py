"""Reads that requests share without any of them being told what was true before it asked."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from contextvars import Context
from typing import Generic, TypeVar

Group = TypeVar("Group", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

PATIENCE_SECONDS = 0.05
"""For how long a read waits for the one that is under way, which may be a slow one."""


class _Read(Generic[Key, Value]):
    """A read, and the keys that it is for: more may come until it begins."""

    def __init__(self) -> None:
        self.keys: set[Key] = set()
        self.task: asyncio.Task[Mapping[Key, Value]]


class GatheredReads(Generic[Group, Key, Value]):
    """One read for all keys of a group that are asked for before it begins; then comes the next.

    So nobody's answer is older than that of a read of its own, nothing is kept, and however many
    ask at once, each read answers all who have come since the one before.
    """

    def __init__(
        self,
        read: Callable[[Group, Collection[Key]], Awaitable[Mapping[Key, Value]]],
        *,
        at_once: int,
    ) -> None:
        """`at_once`: the keys of a read, which may leave out of its answer what isn't there."""
        self._read = read
        self._at_once = at_once
        self._coming: dict[Group, _Read[Key, Value]] = {}
        """The last ones that have not begun."""
        self._under_way: dict[Group, asyncio.Task[Mapping[Key, Value]]] = {}
        """The last ones that have."""

    async def get(self, group: Group, key: Key) -> Value | None:
        """What is true for the key now, or None; raises what `read` raises."""
        return (await self.join(group, key)).get(key)

    async def join(self, group: Group, key: Key) -> Mapping[Key, Value]:
        """The whole answer of the read that the key is in."""
        coming = self._coming.get(group)
        if coming is None or (len(coming.keys) >= self._at_once and key not in coming.keys):
            before = self._under_way.get(group) if coming is None else coming.task
            coming = self._begin(group, before)
        coming.keys.add(key)
        # Others wait for it too, so the end of one caller must not end it.
        return await asyncio.shield(coming.task)

    def _begin(
        self, group: Group, before: "asyncio.Task[Mapping[Key, Value]] | None"
    ) -> _Read[Key, Value]:
        coming: _Read[Key, Value] = _Read()
        running = self._run(group, coming, before)
        coming.task = asyncio.create_task(running, name="read", context=Context())
        coming.task.add_done_callback(lambda _: self._end(group, coming))
        self._coming[group] = coming
        return coming

    async def _run(
        self,
        group: Group,
        coming: _Read[Key, Value],
        before: "asyncio.Task[Mapping[Key, Value]] | None",
    ) -> Mapping[Key, Value]:
        if before is not None:
            await asyncio.wait([before], timeout=PATIENCE_SECONDS)
        # From here on nobody joins it.
        self._close(group, coming)
        self._under_way[group] = coming.task
        return await self._read(group, coming.keys)

    def _close(self, group: Group, coming: _Read[Key, Value]) -> None:
        if self._coming.get(group) is coming:
            del self._coming[group]

    def _end(self, group: Group, read: _Read[Key, Value]) -> None:
        self._close(group, read)  # Cancelled before it began, as a loop ends.
        if self._under_way.get(group) is read.task:
            del self._under_way[group]
        if not read.task.cancelled():
            read.task.exception()  # Marks it as seen where every caller has gone.


class JoinedReads(Generic[Key, Value]):
    """One read of a key for all who ask for it before it begins, as of `GatheredReads`."""

    def __init__(self, read: Callable[[Key], Awaitable[Value]]) -> None:
        self._read = read
        self._reads: GatheredReads[Key, None, Value] = GatheredReads(self._read_one, at_once=1)

    async def get(self, key: Key) -> Value:
        """What is true for the key now; raises what `read` raises."""
        return (await self._reads.join(key, None))[None]

    async def _read_one(self, key: Key, _: Collection[None]) -> Mapping[None, Value]:
        return {None: await self._read(key)}
