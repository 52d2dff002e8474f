"""What a tenant and a key may ask, as clients see it."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx
import pytest
from redis.asyncio import Redis

from taskflow.access.scopes import ALL_SCOPES, Actor, ActorKind
from taskflow.settings import LimitSettings
from taskflow_api.auth import Principal
from taskflow_api.rate_limits.limits import RateLimits
from taskflow_testing.problems import check_problem

from .conftest import Start

JOBS = "/api/v1/jobs"
HOUR = {"tenant_limit_seconds": 3_600, "key_limit_seconds": 3_600}


@pytest.fixture(autouse=True)
async def patient_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Redis]:
    """Full buckets, on a machine that may be busy elsewhere."""
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)
    async with Redis.from_url(redis_url) as redis:
        async for key in redis.scan_iter("taskflow:limit:*"):
            await redis.delete(key)
        yield redis


async def test_a_tenant_may_ask_so_often_and_no_more(start: Start) -> None:
    async with start(tenant_limit_requests=3, **HOUR) as api:
        answers = [await api.get(JOBS) for _ in range(3)]
        refused = [await api.get(JOBS), await api.post(JOBS, json={"type": "echo"})]
        open_to_all = await api.get("/readyz")
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers["RateLimit"] for answer in answers] == [
        '"default";r=2;t=1200', '"default";r=1;t=1200', '"default";r=0;t=1200',
    ]  # fmt: skip
    for answer in refused:
        check_problem(answer, 429, "too_many_requests")
        assert 1_100 < int(answer.headers["Retry-After"]) <= 1_200
        assert answer.headers["RateLimit"] == f'"default";r=0;t={answer.headers["Retry-After"]}'
    for answer in answers + refused:
        assert answer.headers["RateLimit-Policy"] == '"default";q=3;w=3600'
    assert open_to_all.status_code == 200
    assert "RateLimit" not in open_to_all.headers


async def test_processes_share_it(start: Start) -> None:
    async with (
        start(tenant_limit_requests=10, **HOUR) as one,
        start(tenant_limit_requests=10, **HOUR) as other,
    ):
        answers = await asyncio.gather(*(api.get(JOBS) for api in (one, other) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 6


async def test_every_answer_to_a_caller_tells_it(start: Start) -> None:
    async with start() as api:
        created = await api.post(JOBS, json={"type": "echo"})
        url = created.headers["Location"]
        etag = (await api.get(url)).headers["ETag"]
        answers = [
            created,
            await api.get(url, headers={"If-None-Match": etag}),
            await api.head(url),
            await api.get(f"{JOBS}/{uuid4()}"),
            await api.get(f"{JOBS}/no-uuid"),
            await api.post(JOBS, content=b"{"),
            await api.delete(url),
        ]
        unknown = await api.get(url, headers={"X-API-Key": "tf_live_somebody_elses"})
    assert [each.status_code for each in answers] == [202, 304, 200, 404, 422, 415, 409]
    for answer in answers:
        assert answer.headers["RateLimit-Policy"] == '"default";q=300000;w=60'
    check_problem(unknown, 401, "not_authenticated")
    assert "RateLimit" not in unknown.headers


async def test_who_is_not_known_uses_up_nothing(start: Start) -> None:
    async with start(tenant_limit_requests=2, **HOUR) as api:
        for _ in range(3):
            await api.get(JOBS, headers={"X-API-Key": "tf_live_somebody_elses"})
        assert (await api.get(JOBS)).status_code == 200


async def test_it_stands_beside_the_limit_by_address(start: Start) -> None:
    limits = {"address_limit_requests": 5, "unlimited_addresses": "none"}
    async with start(tenant_limit_requests=2, **HOUR, **limits) as api:
        answers = [await api.get(JOBS) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 4
    policies = [answer.headers.get_list("RateLimit-Policy") for answer in answers]
    assert policies == [['"default";q=2;w=3600', '"address";q=5;w=60']] * 5 + [
        ['"address";q=5;w=60']
    ]
    assert [len(answer.headers.get_list("RateLimit")) for answer in answers] == [2] * 5 + [1]
    # Each tells when its own limit lets in again.
    assert int(answers[4].headers["Retry-After"]) > 60 >= int(answers[5].headers["Retry-After"])


async def test_a_key_may_have_less_than_its_tenant(start: Start) -> None:
    async with start(tenant_limit_requests=100, key_limit_requests=2, **HOUR) as api:
        answers = [await api.get(JOBS) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["RateLimit-Policy"] == '"default";q=100;w=3600, "key";q=2;w=3600'
    # What the key is refused the tenant has still.
    assert answers[2].headers["RateLimit"].startswith('"default";r=98;t=')


@pytest.mark.parametrize("key_limit", [0, 5])
async def test_a_limit_of_zero_is_none(start: Start, key_limit: int) -> None:
    async with start(tenant_limit_requests=0, key_limit_requests=key_limit, **HOUR) as api:
        answer = await api.get(JOBS)
    assert answer.headers.get("RateLimit-Policy") == ('"key";q=5;w=3600' if key_limit else None)


def caller(tenant: UUID, key_id: str | None) -> Principal:
    return Principal(tenant, Actor(ActorKind.KEY, "k"), ALL_SCOPES, key_id)


async def test_tenants_and_keys_have_buckets_of_their_own(patient_redis: Redis) -> None:
    limits = RateLimits(
        patient_redis,
        LimitSettings(
            _env_file=None, tenant_limit_requests=10, key_limit_requests=4, **HOUR  # type: ignore[arg-type]
        ),
    )  # fmt: skip

    async def spend(tenant: UUID, key_id: str | None, cost: int) -> bool:
        taken = await limits.take(caller(tenant, key_id), cost=cost)
        assert taken is not None
        return taken.granted

    mine, yours = uuid4(), uuid4()
    assert await spend(mine, "a", 4)
    assert not await spend(mine, "a", 1)
    assert await spend(mine, "b", 4)
    assert not await spend(mine, "c", 3)
    assert await spend(yours, "d", 3)
    # Who comes without a key has the tenant's limit alone.
    assert await spend(mine, None, 2)
    assert not await spend(mine, None, 1)
    await limits.close()


async def test_a_429_leaves_the_connection_to_the_next(start: Start) -> None:
    async with start(tenant_limit_requests=1, tenant_limit_seconds=1) as api:

        async def post() -> httpx.Response:
            return await api.post(JOBS, json={"type": "echo"})

        assert (await post()).status_code == 202
        answer = await post()
        while answer.status_code == 429:
            assert answer.headers["Retry-After"] == "1"
            answer = await post()
        assert answer.status_code == 202
