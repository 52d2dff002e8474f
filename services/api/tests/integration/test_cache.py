"""What is loaded once for several processes, by way of a Redis that may be away at any time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from taskflow.errors import ServiceUnavailable
from taskflow.redis_client import open_redis
from taskflow_api.cache import cache as cache_module
from taskflow_api.cache import store as store_module
from taskflow_api.cache.cache import Cache
from taskflow_api.cache.room import ENTRY_BYTES
from taskflow_api.cache.seals import Seals
from taskflow_api.cache.store import ANSWER_SECONDS, CacheAway, CacheStore, Patience
from taskflow_testing.own_servers import Server
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

SECRET = "of_at_least_thirty_two_characters"
TENANT = uuid4()
SLACK_SECONDS = 1.0
"""For a machine that has other things to do. What nothing ends takes far longer."""
MARGIN_SECONDS = 0.02
"""What a read takes beside its wait."""

Open = Callable[..., Cache]


@pytest.fixture
async def open_cache(redis_url: str) -> AsyncIterator[Open]:
    """A cache as another process has it: `open_cache(seconds=1)`."""
    async with AsyncExitStack() as stack:

        def open_one(url: str = redis_url, secret: str = SECRET, **changes: Any) -> Cache:
            again = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
            client = open_redis(url, timeout_seconds=1.0, retry=again)
            stack.push_async_callback(client.aclose)
            settings: dict[str, Any] = {"seconds": 60.0, "max_bytes": 1_000}
            settings |= {"room_bytes": 1_000_000} | changes
            cache = Cache(CacheStore(client), Seals(secret), **settings)
            stack.push_async_callback(cache.close)
            return cache

        yield open_one


@pytest.fixture(autouse=True)
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """Without what other tests have left."""
    async with Redis.from_url(redis_url) as client:
        for key in await client.keys("taskflow:cache:*"):
            await client.delete(key)
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy does not make Redis a slow one."""
    monkeypatch.setattr(store_module, "ANSWER_SECONDS", 10.0)


class Source:
    """Loads, and counts."""

    def __init__(self, value: bytes = b"value", seconds: float = 0.0) -> None:
        self.value = value
        self.seconds = seconds
        self.loads = 0
        self.error: Exception | None = None

    async def load(self) -> bytes:
        self.loads += 1
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return self.value


@pytest.mark.usefixtures("patient")
async def test_five_hundred_in_two_processes_load_once(open_cache: Open) -> None:
    one, other = open_cache(), open_cache()
    source = Source(seconds=0.1)
    found = await asyncio.gather(
        *(cache.get(TENANT, "stampede", source.load) for _ in range(250) for cache in (one, other))
    )
    assert set(found) == {b"value"}
    assert source.loads == 1
    assert await open_cache().get(TENANT, "stampede", source.load) == b"value"
    assert source.loads == 1


@pytest.mark.usefixtures("patient")
async def test_an_entry_is_its_tenants_ends_by_itself_and_is_not_to_be_read(
    open_cache: Open, redis: Redis
) -> None:
    cache = open_cache(seconds=30.0)
    source = Source(b"canary")
    await cache.get(TENANT, "a", source.load)
    (name,) = await redis.keys("taskflow:cache:*:a")
    assert name == f"taskflow:cache:{TENANT}:a".encode()
    assert 29 < await redis.pttl(name) / 1000 <= 30
    entry = await redis.get(name)
    assert isinstance(entry, bytes)
    assert b"canary" not in entry

    # Nor does it count for others, wherever it was put.
    theirs, made_up = Source(b"theirs"), Source(b"real")
    tenant_id = uuid4()
    await redis.set(f"taskflow:cache:{tenant_id}:a", entry)
    assert await cache.get(tenant_id, "a", theirs.load) == b"theirs"
    await redis.set(f"taskflow:cache:{TENANT}:b", b"made up")
    assert await cache.get(TENANT, "b", made_up.load) == b"real"
    assert (
        await open_cache(secret="another_of_thirty_two_characters").get(
            TENANT, "a", Source(b"anew").load
        )
        == b"anew"
    )


@pytest.mark.usefixtures("patient")
async def test_what_is_too_large_is_loaded_by_each_and_waited_for_by_nobody(
    open_cache: Open, redis: Redis
) -> None:
    one, other = open_cache(max_bytes=100), open_cache(max_bytes=100)
    source = Source(b"x" * 101)
    for cache in (one, other, one):
        assert await cache.get(TENANT, "large", source.load) == source.value
    assert source.loads == 3
    assert await redis.get(f"taskflow:cache:{TENANT}:large") == b""
    assert not await redis.exists(f"taskflow:cache:{TENANT}:large:turn")
    fits = Source(b"x" * 100)
    for cache in (one, other):
        assert await cache.get(TENANT, "fits", fits.load) == fits.value
    assert fits.loads == 1


@pytest.mark.usefixtures("patient")
async def test_a_process_keeps_so_much_at_a_time_and_more_once_that_has_ended(
    open_cache: Open, redis: Redis
) -> None:
    room = 3 * (100 + ENTRY_BYTES)
    source = Source(b"x" * 100)
    cache = open_cache(room_bytes=room)
    for number in range(9):
        assert await cache.get(TENANT, f"{number}", source.load) == source.value
    assert len(await redis.keys("taskflow:cache:*")) == 3

    cache = open_cache(seconds=0.2, room_bytes=room)
    for number in range(3):
        await cache.get(TENANT, f"short-{number}", source.load)

    async def is_kept_again() -> bool:
        before = source.loads
        await cache.get(TENANT, "again", source.load)
        return source.loads == before

    await eventually(is_kept_again)


@pytest.mark.usefixtures("patient")
async def test_a_failure_is_told_to_who_waits_and_kept_by_nobody(open_cache: Open) -> None:
    one, other = open_cache(), open_cache()
    source = Source(seconds=0.02)
    source.error = ServiceUnavailable("S3", "away")
    told = await asyncio.gather(
        *(cache.get(TENANT, "a", source.load) for _ in range(5) for cache in (one, other)),
        return_exceptions=True,
    )
    assert [type(each) for each in told] == [ServiceUnavailable] * 10
    assert source.loads == 2
    source.error = None
    assert await other.get(TENANT, "a", source.load) == b"value"


@pytest.mark.usefixtures("patient")
async def test_who_dies_at_it_holds_nobody_up_for_long(
    open_cache: Open, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "OTHER_SECONDS", 0.1)
    turn = f"taskflow:cache:{TENANT}:a:turn"
    await redis.set(turn, "of one that is dead", px=60_000)
    source = Source()
    assert await open_cache().get(TENANT, "a", source.load) == b"value"
    assert await open_cache().get(TENANT, "a", source.load) == b"value"
    assert source.loads == 1
    # Whose turn it was not hasn't ended it.
    assert await redis.get(turn) == b"of one that is dead"


@pytest.mark.usefixtures("patient")
async def test_who_is_late_does_not_end_the_turn_of_the_next(
    open_cache: Open, redis: Redis
) -> None:
    turn = f"taskflow:cache:{TENANT}:a:turn"

    class Late(Source):
        async def load(self) -> bytes:
            assert 10_000 < await redis.pttl(turn) <= 15_000
            await redis.set(turn, "the next one's")
            return await super().load()

    assert await open_cache().get(TENANT, "a", Late().load) == b"value"
    assert await redis.get(turn) == b"the next one's"


@pytest.mark.usefixtures("patient")
async def test_the_end_of_one_caller_is_not_that_of_the_others(open_cache: Open) -> None:
    cache = open_cache()
    source = Source(seconds=0.05)
    one, other = (asyncio.create_task(cache.get(TENANT, "a", source.load)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    assert await other == b"value"
    assert source.loads == 1


async def test_nothing_is_kept_for_no_seconds(open_cache: Open, redis: Redis) -> None:
    cache = open_cache(seconds=0.0)
    source = Source()
    assert await asyncio.gather(*(cache.get(TENANT, "a", source.load) for _ in range(9)))
    await cache.get(TENANT, "a", source.load)
    assert source.loads == 2
    assert await redis.keys("taskflow:cache:*") == []


async def timed(cache: Cache, name: str, source: Source) -> float:
    began = time.perf_counter()
    assert await cache.get(TENANT, name, source.load) == b"value"
    return time.perf_counter() - began


def test_fifty_milliseconds_are_meant() -> None:
    assert ANSWER_SECONDS == 0.05


async def test_redis_away_costs_one_moment_fifty_milliseconds_and_no_other_anything(
    open_cache: Open, own_redis: Server, redis_fault: Any
) -> None:
    cache, other = open_cache(own_redis.url), open_cache(own_redis.url)
    names = iter(range(10_000))

    async def is_kept() -> bool:
        name, source = f"well-{next(names)}", Source()
        await timed(cache, name, source)
        await timed(other, name, source)
        return source.loads == 1

    await eventually(is_kept)
    await redis_fault.begin(own_redis)
    together = await asyncio.gather(*(timed(cache, f"away-{n}", Source()) for n in range(100)))
    assert max(together) < ANSWER_SECONDS + SLACK_SECONDS
    began = time.perf_counter()
    for number in range(100):
        source = Source()
        await timed(cache, f"later-{number}", source)
        assert source.loads == 1
    assert time.perf_counter() - began < ANSWER_SECONDS + SLACK_SECONDS
    await redis_fault.end(own_redis)
    await eventually(is_kept)


async def test_who_finds_redis_frozen_waits_fifty_milliseconds_for_it(
    open_cache: Open, own_redis: Server
) -> None:
    """Once of a few times: a machine that has other things to do makes it only longer."""
    cache = open_cache(own_redis.url)
    names = iter(range(10_000))

    async def is_kept() -> bool:
        name, source = f"{next(names)}", Source()
        await timed(cache, name, source)
        await timed(cache, name, source)
        return source.loads == 1

    waited = []
    for _ in range(10):
        await eventually(is_kept)
        own_redis.freeze()
        waited.append(await timed(cache, f"{next(names)}", Source()))
        own_redis.thaw()
        if ANSWER_SECONDS / 2 < waited[-1] < ANSWER_SECONDS + MARGIN_SECONDS:
            return
    pytest.fail(f"it took {waited} s")


async def test_who_waits_for_another_goes_on_when_redis_freezes(
    open_cache: Open, own_redis: Server, redis_url: str
) -> None:
    cache = open_cache(own_redis.url)
    async with Redis.from_url(own_redis.url) as client:
        await client.set(f"taskflow:cache:{TENANT}:a:turn", "another's", px=60_000)
    source = Source()
    waiting = asyncio.create_task(timed(cache, "a", source))
    await asyncio.sleep(0.1)
    assert source.loads == 0
    own_redis.freeze()
    assert await waiting < 0.1 + 2 * ANSWER_SECONDS + SLACK_SECONDS
    assert source.loads == 1


@pytest.mark.usefixtures("patient")
async def test_an_emptied_redis_and_one_that_was_started_anew_are_not_missed(
    open_cache: Open, own_redis: Server
) -> None:
    cache = open_cache(own_redis.url)
    source = Source()
    await timed(cache, "a", source)
    async with Redis.from_url(own_redis.url) as client:
        await client.flushall()
    await timed(cache, "a", source)
    await own_redis.kill()
    await own_redis.start()
    await timed(cache, "a", source)
    await timed(cache, "a", source)
    assert source.loads == 3


@pytest.mark.usefixtures("patient")
async def test_who_comes_while_it_has_its_hands_full_goes_without(
    open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_CALLS", 3)
    cache = open_cache()
    sources = [Source() for _ in range(300)]
    for _ in range(2):
        await asyncio.gather(*(timed(cache, f"{n}", each) for n, each in enumerate(sources)))
    loads = [each.loads for each in sources]
    assert set(loads) == {1, 2}
    # It is still in use.
    await timed(cache, "other", Source())
    unneeded = Source()
    await timed(cache, "other", unneeded)
    assert unneeded.loads == 0


async def test_a_slow_redis_is_none(redis_url: str, open_cache: Open) -> None:
    async with TcpProxy(redis_url) as proxy:
        cache = open_cache(proxy.url)
        await timed(cache, "a", Source())
        proxy.answer_delay_seconds = 2 * SLACK_SECONDS
        assert await timed(cache, "b", Source()) < ANSWER_SECONDS + SLACK_SECONDS
        assert await timed(cache, "c", Source()) < SLACK_SECONDS


async def test_a_client_that_loses_a_cancellation_holds_nobody_up(redis: Redis) -> None:
    async def deaf() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(3 * SLACK_SECONDS)

    store = CacheStore(redis)
    began = time.perf_counter()
    with pytest.raises(CacheAway):
        await store._ask(deaf, Patience())
    assert time.perf_counter() - began < ANSWER_SECONDS + SLACK_SECONDS
    await store.close()


async def test_it_begins_and_ends_without_redis(open_cache: Open) -> None:
    cache = open_cache("redis://127.0.0.1:1/0")
    source = Source()
    await timed(cache, "a", source)
    await cache.close()
    await timed(cache, "a", source)
    assert source.loads == 2
