"""The script in Redis: it counts as `bucket.py` does, by Redis's clock, and leaves no litter."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis as SynchronousRedis
from redis.asyncio import Redis

from taskflow_api.rate_limits.bucket import Policy, take
from taskflow_api.rate_limits.script import SCRIPT, TakeScript, call_of
from taskflow_api.rate_limits.shared_buckets import SharedBuckets
from taskflow_api.rate_limits.takes import Bucket, Take, Taken
from taskflow_testing.waiting import eventually

PROCESSES = 3


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy elsewhere makes nobody count alone."""
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def buckets(redis: Redis, patient: None) -> AsyncIterator[SharedBuckets]:
    shared = SharedBuckets(redis)
    yield shared
    await shared.close()


def bucket(quota: int, seconds: int, name: str = "default") -> Bucket:
    return Bucket(Policy(name, quota, seconds), str(uuid4()))


async def spend(buckets: SharedBuckets, *wanted: Bucket, cost: int = 1) -> bool:
    return (await buckets.take(Take(wanted, cost))).granted


async def test_a_bucket_gives_what_it_holds_and_no_more(buckets: SharedBuckets) -> None:
    one = bucket(5, 3_600)
    taken = [await buckets.take(Take([one], 1)) for _ in range(7)]
    assert [each.granted for each in taken] == [True] * 5 + [False] * 2
    assert [one.policy.tokens_left(each.debts[0]) for each in taken] == [4, 3, 2, 1, 0, 0, 0]
    assert await spend(buckets, bucket(5, 3_600))


async def test_what_costs_more_takes_more(buckets: SharedBuckets) -> None:
    one = bucket(10, 3_600)
    assert await spend(buckets, one, cost=7)
    assert not await spend(buckets, one, cost=4)
    assert await spend(buckets, one, cost=3)
    # What is worth more than any bucket has its price: a full one.
    other = bucket(10, 3_600)
    assert await spend(buckets, other, cost=1_000)
    assert not await spend(buckets, other)


async def test_it_takes_from_all_buckets_or_from_none(buckets: SharedBuckets) -> None:
    tenant, key = bucket(10, 3_600), bucket(2, 3_600, "key")
    assert [await spend(buckets, tenant, key) for _ in range(4)] == [True, True, False, False]
    left = await buckets.take(Take([tenant], 1))
    assert tenant.policy.tokens_left(left.debts[0]) == 7


async def test_many_at_once_go_together(
    buckets: SharedBuckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = bucket(40, 3_600), bucket(7, 3_600)
    run = TakeScript.run
    calls: list[int] = []

    async def counted(script: TakeScript, batch: Sequence[Take]) -> list[Taken]:
        # Redis itself counts for all its clients, the tests beside this one among them.
        calls.append(len(batch))
        return await run(script, batch)

    monkeypatch.setattr(TakeScript, "run", counted)
    granted = await asyncio.gather(*(spend(buckets, each) for each in [one, other] * 150))
    assert granted[0::2] == [True] * 40 + [False] * 110
    assert granted[1::2] == [True] * 7 + [False] * 143
    assert (sum(calls), len(calls) <= 4) == (300, True)


async def test_a_crowd_that_keeps_this_process_busy_does_not_make_redis_slow(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 0.2)
    shared = SharedBuckets(redis)
    one = bucket(1_000, 3_600)

    async def work_and_spend() -> bool:
        time.sleep(0.002)  # noqa: ASYNC251 - what else a request costs
        return await spend(shared, one)

    assert await asyncio.gather(*(work_and_spend() for _ in range(300))) == [True] * 300
    await shared.close()


async def test_it_fills_by_the_clock_of_redis(buckets: SharedBuckets, redis: Redis) -> None:
    one = bucket(10, 1)

    async def written_at() -> int:
        found = await redis.get(one.key)
        assert isinstance(found, bytes)
        return int(found.split()[1])

    assert await spend(buckets, one, cost=10)
    began = await written_at()
    ended = began

    async def enough() -> bool:
        nonlocal ended
        granted = await spend(buckets, one, cost=3)
        ended = await written_at()
        return granted

    await eventually(enough, pause=0.0)
    # 3 of 10 in 1 s, to the millisecond; the machine may be late.
    assert ended - began >= 300


async def test_a_full_bucket_is_none(buckets: SharedBuckets, redis: Redis) -> None:
    slow, quick = bucket(100, 60), bucket(100, 1)
    await spend(buckets, slow, cost=50)
    await spend(buckets, quick, cost=20)
    assert 29_000 < await redis.pttl(slow.key) <= 30_000
    assert await redis.pttl(quick.key) <= 200

    async def gone() -> bool:
        return not await redis.exists(quick.key)

    await eventually(gone)
    assert await redis.exists(slow.key)


async def test_a_clock_that_goes_back_stops_nobody(buckets: SharedBuckets, redis: Redis) -> None:
    one = bucket(10, 1)
    seconds, _ = await redis.time()
    await redis.set(one.key, f"{one.policy.most_debt} {(seconds + 3_600) * 1_000}")
    assert not await spend(buckets, one)

    async def refilled() -> bool:
        return await spend(buckets, one)

    await eventually(refilled)


async def test_what_is_no_bucket_counts_as_a_full_one(buckets: SharedBuckets, redis: Redis) -> None:
    one = bucket(10, 60)
    await redis.set(one.key, "something else")
    assert await spend(buckets, one)


async def test_another_policy_has_other_buckets(buckets: SharedBuckets) -> None:
    one = bucket(10, 60)
    assert await spend(buckets, one, cost=10)
    assert await spend(buckets, Bucket(Policy("default", 20, 60), one.owner))


async def test_a_script_that_was_forgotten_is_sent_again(
    buckets: SharedBuckets, redis: Redis
) -> None:
    one = bucket(3, 3_600)
    assert await spend(buckets, one)
    await redis.script_flush()
    assert [await spend(buckets, one) for _ in range(3)] == [True, True, False]
    await redis.delete(one.key)
    assert await spend(buckets, one)


def _spend_from_process(redis_url: str, owner: str, tries: int) -> int:
    async def run() -> int:
        async with Redis.from_url(redis_url) as redis:
            shared = SharedBuckets(redis)
            one = Bucket(Policy("default", 500, 3_600), owner)
            granted = await asyncio.gather(*(spend(shared, one) for _ in range(tries)))
            await shared.close()
            return sum(granted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)
        return asyncio.run(run())


def test_several_processes_have_one_bucket(redis_url: str) -> None:
    owner = str(uuid4())
    began = time.monotonic()
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as processes:
        work = [
            processes.submit(_spend_from_process, redis_url, owner, 300) for _ in range(PROCESSES)
        ]
        granted = sum(each.result() for each in work)
    # 500 an hour: one flows in each 7.2 s.
    assert 500 <= granted <= 500 + (time.monotonic() - began) // 7.2


NOW_MS = 1_800_000_000_123

policies = st.builds(
    Policy,
    st.sampled_from(["default", "key"]),
    st.integers(1, 10_000_000),
    st.integers(1, 86_400),
)
owners = st.sampled_from(["a", "b"])
found = st.builds(
    lambda policy, owner, debt, age_ms: (
        Bucket(policy, owner),
        (min(debt, policy.most_debt), NOW_MS - min(age_ms, 2 * policy.window_ms)),
    ),
    policies,
    owners,
    st.integers(0, Policy("largest", 10_000_000, 86_400).most_debt),
    st.integers(-60_000, 200_000_000),
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[dict[Bucket, tuple[int, int]], list[Take]]:
    """Buckets as the script may find them, and takes that share some of them."""
    held = dict(draw(st.lists(found, min_size=1, max_size=4)))
    some = st.lists(st.sampled_from(sorted(held, key=repr)), min_size=1, unique=True)
    takes = st.lists(st.builds(Take, some, st.integers(1, 20_000_000)), min_size=1, max_size=5)
    return held, draw(takes)


@given(batches())
@settings(max_examples=200, deadline=None)
def test_the_script_counts_as_the_arithmetic_does(
    redis_url: str, batch: tuple[dict[Bucket, tuple[int, int]], list[Take]]
) -> None:
    held, takes = batch
    keys, arguments = call_of(takes)
    frozen = f"{{'{NOW_MS // 1_000}', '{NOW_MS % 1_000}999'}}"
    script = SCRIPT.replace("redis.call('TIME')", frozen)
    with SynchronousRedis.from_url(redis_url) as redis:
        redis.mset({each.key: f"{debt} {at}" for each, (debt, at) in held.items()})
        answer = redis.eval(script, len(keys), *keys, *arguments)
        assert isinstance(answer, bytes)
        redis.delete(*(each.key for each in held))

    debts = {each: each.policy.debt_after(debt, NOW_MS - at) for each, (debt, at) in held.items()}
    expected = []
    for one in takes:
        granted, owed = take([(each.policy, debts[each]) for each in one.buckets], one.cost)
        debts.update(zip(one.buckets, owed, strict=True))
        expected += [int(granted), *owed]
    assert [int(number) for number in answer.split()] == expected
