"""The cache's entries in Redis, by aiocache; it may be away at any time."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

import structlog
from aiocache import RedisCache
from aiocache.serializers import NullSerializer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from taskflow.patience import pause_seconds

Answer = TypeVar("Answer")

ANSWER_SECONDS = 0.05
"""How long a read waits for Redis, all its calls together."""

CONNECT_SECONDS = 1.0
PROBE_PAUSE_SECONDS = 1.0
"""The longest pause between two looks at a Redis that is away."""

MAX_CALLS = 50
"""How many calls are under way at most, each on a connection; who comes then goes without."""

TURN_SECONDS = 15.0
"""For how long a turn lasts whose process doesn't end it; longer than any load takes."""

_PROBE = "taskflow:cache:probe"

# Whoever is late must not end the turn of the next.
_END_TURN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

log = structlog.get_logger(__name__)


class CacheAway(Exception):
    """Redis does not answer in time, or is kept busy by us. It may have done what it was asked."""


class Patience:
    """What is left of the time that one read waits for Redis."""

    def __init__(self) -> None:
        self._left = ANSWER_SECONDS

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Use up of it; TimeoutError when it is over."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                yield
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))


class CacheStore:
    """Entries, and whose turn it is to make one.

    Every method raises CacheAway. Once Redis has failed, nobody waits for it: it is looked after
    beside the requests until it takes writes again, and in time.
    """

    def __init__(self, redis: Redis) -> None:
        """Its connections are those of `redis`."""
        # Any: it has no types. Its time-out is `wait_for`, which on Python 3.11 can lose a
        # cancellation; ours is around every call.
        self._cache: Any = RedisCache(
            serializer=NullSerializer(encoding=None),
            timeout=None,
            connection_pool_class=lambda **_: redis.connection_pool,
        )
        self._calls: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    async def get(self, name: str, patience: Patience) -> bytes | None:
        """An entry."""
        found: bytes | None = await self._ask(lambda: self._cache.get(name), patience)
        return found

    async def keep(self, name: str, entry: bytes, seconds: float, patience: Patience) -> None:
        """Keep an entry for so long."""
        await self._ask(lambda: self._cache.set(name, entry, ttl=seconds), patience)

    async def take_turn(self, name: str, patience: Patience) -> str | None:
        """What `end_turn` wants; None if somebody is at it."""
        turn = secrets.token_hex(16)
        try:
            # SET NX PX
            await self._ask(
                lambda: self._cache.add(_turn_of(name), turn, ttl=TURN_SECONDS), patience
            )
        except ValueError:
            return None
        return turn

    async def end_turn(self, name: str, turn: str, patience: Patience) -> None:
        """Let the next one have a turn."""
        await self._ask(
            lambda: self._cache.raw("eval", _END_TURN, 1, _turn_of(name), turn), patience
        )

    async def look(self, name: str, patience: Patience) -> tuple[bytes | None, bool]:
        """An entry, and whether somebody is at it."""
        entry, turn = await self._ask(
            lambda: self._cache.multi_get([name, _turn_of(name)]), patience
        )
        return entry, turn is not None

    def suspect(self, error: Exception) -> None:
        """Ask Redis, which has failed somebody else, no more until it has been looked after."""
        self._begin_to_look(error)

    async def close(self) -> None:
        """Look after Redis no more."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._calls:
            await asyncio.wait(self._calls, timeout=CONNECT_SECONDS)

    async def _ask(self, call: Callable[[], Awaitable[Answer]], patience: Patience) -> Answer:
        if self._looking is not None or self._closed or len(self._calls) >= MAX_CALLS:
            raise CacheAway
        asking = asyncio.create_task(_made(call), name="cache-call", context=Context())
        self._calls.add(asking)
        asking.add_done_callback(self._end_call)
        try:
            async with patience.limit():
                # A client that is connecting may lose a cancellation, and take its own time.
                return await asyncio.shield(asking)
        except (OSError, RedisError) as error:
            self._begin_to_look(error)
            raise CacheAway from error
        finally:
            asking.cancel()

    def _end_call(self, done: "asyncio.Task[Any]") -> None:
        self._calls.discard(done)
        if not done.cancelled():
            done.exception()  # Marks it as seen where its caller has gone.

    def _begin_to_look(self, error: Exception) -> None:
        # Others may have failed with it.
        if self._looking is None and not self._closed:
            log.warning("cache_away", error=str(error) or type(error).__name__)
            self._looking = asyncio.create_task(self._look(), name="cache-probe", context=Context())

    async def _look(self) -> None:
        failures = 0
        while not await self._is_well():
            if self._closed:
                return
            failures += 1
            await asyncio.sleep(pause_seconds(failures, last=PROBE_PAUSE_SECONDS))
        self._looking = None
        log.info("cache_back")

    async def _is_well(self) -> bool:
        try:
            # To connect may take its time here, where nobody waits for it.
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._cache.raw("ping")
            # A replica, or one that is full, answers a PING.
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._cache.set(_PROBE, b"", ttl=PROBE_PAUSE_SECONDS)
        except (OSError, RedisError):
            return False
        return True


async def _made(call: Callable[[], Awaitable[Answer]]) -> Answer:
    return await call()


def _turn_of(name: str) -> str:
    return f"{name}:turn"
