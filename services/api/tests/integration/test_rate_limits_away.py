"""Redis away, frozen, read-only, full, slow or cut off: requests go on under a share of a limit."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from taskflow_api.rate_limits.bucket import Policy
from taskflow_api.rate_limits.local_buckets import LocalBuckets
from taskflow_api.rate_limits.shared_buckets import (
    ANSWER_SECONDS,
    SharedBuckets,
    SharedBucketsAway,
)
from taskflow_api.rate_limits.takes import Bucket, Take, Taken
from taskflow_testing.own_servers import Server
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

WORKERS = "/api/v1/workers"
SLACK_SECONDS = 1.0
"""For a machine that has other things to do. What nothing ends takes far longer."""

MARGIN_SECONDS = 0.02
"""By how much a median may differ from itself."""


def test_fifty_milliseconds_are_meant() -> None:
    assert ANSWER_SECONDS == 0.05


async def test_requests_go_on_under_a_share_of_the_limit(
    start: Any, own_redis: Server, redis_fault: Any
) -> None:
    limits = {"tenant_limit_requests": 60, "tenant_limit_seconds": 3_600, "limit_local_share": 0.4}
    async with start(redis_url=own_redis.url, **limits) as api:

        async def policy() -> str:
            found: str = (await api.get(WORKERS)).headers["RateLimit-Policy"]
            return found

        async def is_shared() -> bool:
            return await policy() == '"default";q=60;w=3600'

        await eventually(is_shared)
        await redis_fault.begin(own_redis)

        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await api.get(WORKERS))

        with capture_logs() as logged:
            taken = [await _timed(ask) for _ in range(30)]
        statuses = [answer.status_code for answer in answers]
        # 24, and those that Redis gave before it was broken through and through.
        granted = statuses.count(200)
        assert 24 <= granted <= 26
        assert statuses == [200] * granted + [429] * (30 - granted)
        assert answers[-1].headers["RateLimit-Policy"] == '"default";q=24;w=3600'
        assert answers[-1].headers["RateLimit"].startswith('"default";r=0;')

        # Nor is it ever taken for well meanwhile.
        assert [each["event"] for each in logged].count("rate_limits_local") == 1

        await redis_fault.end(own_redis)
        await eventually(is_shared)
        # Afterwards: a machine that is busy for a moment would have begun to count alone before.
        usual = statistics.median([await _timed(policy) for _ in range(15)])
        assert max(taken) < usual + ANSWER_SECONDS + SLACK_SECONDS
        assert statistics.median(taken) <= usual + ANSWER_SECONDS + MARGIN_SECONDS


async def test_who_finds_redis_frozen_waits_fifty_milliseconds_for_it(
    start: Any, own_redis: Server
) -> None:
    """Once of a few times: a machine that has other things to do makes it only longer."""
    async with start(redis_url=own_redis.url) as api:

        async def is_shared() -> bool:
            return "q=300000" in (await api.get(WORKERS)).headers["RateLimit-Policy"]

        waited = []
        for _ in range(10):
            await eventually(is_shared)
            usual = statistics.median([await _timed(is_shared) for _ in range(5)])
            own_redis.freeze()
            waited.append(await _timed(is_shared) - usual)
            assert not await is_shared()
            own_redis.thaw()
            if ANSWER_SECONDS / 2 < waited[-1] < ANSWER_SECONDS + MARGIN_SECONDS:
                return
        pytest.fail(f"it took {waited} s more than usual")


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def buckets(proxy: TcpProxy) -> AsyncIterator[SharedBuckets]:
    async with Redis.from_url(proxy.url, socket_timeout=0.5, socket_connect_timeout=0.5) as client:
        shared = SharedBuckets(client)
        yield shared
        await shared.close()


def new_bucket() -> Bucket:
    return Bucket(Policy("default", 1_000, 3_600), str(uuid4()))


async def attempt(buckets: SharedBuckets, bucket: Bucket) -> Taken | None:
    try:
        return await buckets.take(Take([bucket], 1))
    except SharedBucketsAway:
        return None


async def is_well(buckets: SharedBuckets, bucket: Bucket) -> Taken:
    return await eventually(lambda: attempt(buckets, bucket))


async def test_who_comes_together_waits_together_and_who_comes_later_not_at_all(
    buckets: SharedBuckets, proxy: TcpProxy
) -> None:
    bucket = new_bucket()
    await is_well(buckets, bucket)
    proxy.freeze()

    async def many() -> list[Taken | None]:
        return await asyncio.gather(*(attempt(buckets, bucket) for _ in range(300)))

    began = time.perf_counter()
    assert await many() == [None] * 300
    assert time.perf_counter() - began < ANSWER_SECONDS + SLACK_SECONDS
    began = time.perf_counter()
    for _ in range(300):
        assert await attempt(buckets, bucket) is None
    assert time.perf_counter() - began < ANSWER_SECONDS + SLACK_SECONDS

    proxy.thaw()
    await is_well(buckets, bucket)


async def test_it_begins_while_redis_is_frozen(buckets: SharedBuckets, proxy: TcpProxy) -> None:
    bucket = new_bucket()
    proxy.freeze()
    assert await attempt(buckets, bucket) is None
    proxy.thaw()
    taken = await is_well(buckets, bucket)
    assert taken.granted
    assert bucket.policy.tokens_left(taken.debts[0]) >= 998


async def test_a_slow_redis_is_none_and_late_answers_are_nobodys(
    buckets: SharedBuckets, proxy: TcpProxy
) -> None:
    bucket = new_bucket()
    await is_well(buckets, bucket)
    proxy.answer_delay_seconds = 2 * SLACK_SECONDS
    began = time.perf_counter()
    assert await attempt(buckets, bucket) is None
    assert time.perf_counter() - began < ANSWER_SECONDS + SLACK_SECONDS

    async def looked_at_again() -> bool:
        # It answers, but too late.
        return proxy.accepted >= 4

    await eventually(looked_at_again)
    assert await attempt(buckets, bucket) is None

    proxy.answer_delay_seconds = 0.0
    other = new_bucket()
    first = await is_well(buckets, other)
    later = [await is_well(buckets, other) for _ in range(5)]
    left = [other.policy.tokens_left(each.debts[0]) for each in [first, *later]]
    # No two answers are the same, and none is of another bucket.
    assert left == sorted(set(left), reverse=True)
    assert left[0] >= 990


async def test_an_answer_that_is_cut_off_is_none(proxy: TcpProxy) -> None:
    bucket = new_bucket()
    tries = answers = 0
    last = bucket.policy.quota
    for limit in [*range(0, 260, 20), None]:
        proxy.answer_limit_bytes = limit
        async with Redis.from_url(proxy.url, socket_timeout=0.5) as client:
            buckets = SharedBuckets(client)
            for _ in range(4):
                taken = await attempt(buckets, bucket)
                tries += 1
                if taken is not None:
                    answers += 1
                    left = bucket.policy.tokens_left(taken.debts[0])
                    assert left < last
                    last = left
            await buckets.close()
    assert 0 < answers < tries
    # What was cut off may count, and so may its repetition.
    assert bucket.policy.quota - last <= 3 * tries


async def test_a_redis_that_was_started_anew_is_not_missed(
    start: Any, own_redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)
    limits = {"tenant_limit_requests": 10, "tenant_limit_seconds": 3_600}
    async with start(redis_url=own_redis.url, **limits) as api:
        before = await api.get(WORKERS)
        await own_redis.kill()
        await own_redis.start()
        after = await api.get(WORKERS)
    # Its buckets are full again, and nobody has counted alone.
    assert before.headers["RateLimit"] == after.headers["RateLimit"] == '"default";r=9;t=360'
    assert after.headers["RateLimit-Policy"] == '"default";q=10;w=3600'


async def test_it_begins_and_ends_without_redis() -> None:
    async with Redis.from_url("redis://127.0.0.1:1/0") as client:
        buckets = SharedBuckets(client)
        assert await attempt(buckets, new_bucket()) is None
        await buckets.close()
        assert await attempt(buckets, new_bucket()) is None


def test_this_process_alone_counts_as_redis_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = 5_000
    monkeypatch.setattr("taskflow_api.rate_limits.local_buckets.monotonic_ms", lambda: now_ms)
    local = LocalBuckets()
    bucket = Bucket(Policy("default", 10, 1), "t")

    def spend(cost: int) -> bool:
        return local.take(Take([bucket], cost)).granted

    assert [spend(6), spend(5), spend(4), spend(1)] == [True, False, True, False]
    now_ms += 299
    assert not spend(3)
    now_ms += 1
    assert spend(3)
    now_ms += 3_600_000
    assert [spend(10), spend(1)] == [True, False]


def test_its_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_api.rate_limits.local_buckets.MAX_BUCKETS", 3)
    local = LocalBuckets()

    def spend(owner: str) -> bool:
        return local.take(Take([Bucket(Policy("default", 1, 3_600), owner)], 1)).granted

    assert [spend(owner) for owner in "abc"] == [True] * 3
    assert not spend("a")
    assert spend("d")
    # b was used longest ago and is forgotten; a was not.
    assert [spend(owner) for owner in "acdb"] == [False, False, False, True]


def test_a_bucket_that_owes_nothing_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_api.rate_limits.local_buckets.MAX_BUCKETS", 2)
    local = LocalBuckets()

    def spend(*owners: str) -> bool:
        policy = Policy("default", 1, 3_600)
        return local.take(Take([Bucket(policy, owner) for owner in owners], 1)).granted

    assert [spend("a"), spend("b")] == [True, True]
    # Whoever has nothing left names others as often as it likes.
    assert not any(spend("b", str(number)) for number in range(5))
    assert not spend("a")
