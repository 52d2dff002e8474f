"""Values that never change, loaded once for all API processes and kept for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from uuid import UUID

from taskflow_api.cache.room import Room
from taskflow_api.cache.seals import Seals
from taskflow_api.cache.store import CacheAway, CacheStore, Patience

Load = Callable[[], Awaitable[bytes]]

OTHER_SECONDS = 1.0
"""For how long a process waits for another that loads the same, before it does so itself."""

_FIRST_PAUSE_SECONDS = 0.005
_LAST_PAUSE_SECONDS = 0.05

_TOO_LARGE = b""
"""The entry of a value that isn't kept: nobody shall wait for it. No sealed value is empty."""


class _NotKept(Exception):
    """The value has to be loaded each time."""


class Cache:
    """A value is kept under a name that never means another value, so that none is ever stale.

    Whether the caller may have it, and whether this still is the name of what it asks for, is to
    be found out before; nothing in here says so. Of those who ask for one at once one loads it,
    also across processes, as long as Redis answers.
    """

    def __init__(
        self, store: CacheStore, seals: Seals, *, seconds: float, max_bytes: int, room_bytes: int
    ) -> None:
        """`seconds`: how long a value is kept, 0 for not at all; larger ones never are.

        `room_bytes`: how much this process keeps at a time; what comes beyond isn't kept.
        """
        self._store = store
        self._seals = seals
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._room = Room(room_bytes, seconds)
        self._reads: dict[str, asyncio.Task[bytes]] = {}

    async def get(self, tenant_id: UUID, name: str, load: Load) -> bytes:
        """The value of a tenant's that has this name; raises what `load` raises."""
        name = f"taskflow:cache:{tenant_id}:{name}"
        read = self._reads.get(name)
        if read is None:
            read = asyncio.create_task(self._read(name, load), name="cached", context=Context())
            self._reads[name] = read
            read.add_done_callback(lambda done: self._end_read(name, done))
        # Others wait for it too, so the end of one caller must not end it.
        return await asyncio.shield(read)

    async def close(self) -> None:
        """End what is under way."""
        reads = list(self._reads.values())
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        await self._store.close()

    async def _read(self, name: str, load: Load) -> bytes:
        if not self._seconds:
            return await load()
        patience = Patience()
        try:
            found = await self._known(name, patience)
            return found if found is not None else await self._in_turn(name, load, patience)
        except (CacheAway, _NotKept):
            return await load()

    async def _in_turn(self, name: str, load: Load, patience: Patience) -> bytes:
        turn = await self._store.take_turn(name, patience)
        if turn is None:
            found = await self._wait_for_other(name)
            return found if found is not None else await self._load(name, load, patience)
        try:
            # It may have come between the look and the turn.
            found = await self._known(name, patience)
            return found if found is not None else await self._load(name, load, patience)
        finally:
            with suppress(CacheAway):  # It ends by itself.
                await self._store.end_turn(name, turn, patience)

    async def _load(self, name: str, load: Load, patience: Patience) -> bytes:
        value = await load()
        fits = len(value) <= self._max_bytes
        if self._room.take(len(value) if fits else 0):
            entry = self._seals.seal(name, value) if fits else _TOO_LARGE
            with suppress(CacheAway):  # The caller has its value.
                await self._store.keep(name, entry, self._seconds, patience)
        return value

    async def _wait_for_other(self, name: str) -> bytes | None:
        give_up_at = time.monotonic() + OTHER_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while time.monotonic() < give_up_at:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)
            entry, is_at_it = await self._store.look(name, Patience())
            found = self._opened(name, entry)
            if found is not None or not is_at_it:
                return found
        return None

    async def _known(self, name: str, patience: Patience) -> bytes | None:
        return self._opened(name, await self._store.get(name, patience))

    def _opened(self, name: str, entry: bytes | None) -> bytes | None:
        if entry is None:
            return None
        if entry == _TOO_LARGE:
            raise _NotKept
        return self._seals.open(name, entry)

    def _end_read(self, name: str, done: "asyncio.Task[bytes]") -> None:
        del self._reads[name]
        if not done.cancelled():
            done.exception()  # Marks it as seen where every caller has gone.
