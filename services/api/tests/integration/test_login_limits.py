"""How often somebody may try to sign in, and that it keeps nobody out of what is theirs."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from taskflow_api.users import login_limits
from taskflow_testing.problems import check_problem

from .conftest import Start

REGISTER = "/api/v1/auth/register"
TOKEN = "/api/v1/auth/token"
PASSWORD = "correct horse battery"
PROXIED: dict[str, Any] = {
    "trusted_proxies": "127.0.0.1/32",
    "address_limit_requests": 0,
    "login_limit_seconds": 3_600,
}


@pytest.fixture(autouse=True)
async def patient_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full buckets, on a machine that may be busy elsewhere."""
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)
    await fill_buckets(redis_url)


async def fill_buckets(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        async for key in redis.scan_iter("taskflow:limit:*"):
            await redis.delete(key)


@pytest.fixture
def email() -> str:
    return f"ada-{uuid4().hex[:12]}@example.com"


async def attempt(
    api: httpx.AsyncClient, email: str, address: str, password: str = "x" * 12
) -> httpx.Response:
    body = {"username": email, "password": password}
    return await api.post(TOKEN, json=body, headers={"X-Forwarded-For": address})


async def register(api: httpx.AsyncClient, email: str, address: str) -> httpx.Response:
    body = {"email": email, "password": PASSWORD}
    return await api.post(REGISTER, json=body, headers={"X-Forwarded-For": address})


async def refresh(api: httpx.AsyncClient, tokens: Mapping[str, str]) -> httpx.Response:
    body = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    return await api.post(TOKEN, json=body)


async def test_an_address_tries_an_account_so_often(start: Start, email: str) -> None:
    async with start(login_limit_attempts=3, **PROXIED) as api:
        await register(api, email, "203.0.113.1")
        tried = [await attempt(api, email.upper(), "203.0.113.1") for _ in range(4)]
        right = await attempt(api, email, "203.0.113.1", PASSWORD)
        elsewhere = await attempt(api, email, "203.0.113.2", PASSWORD)
    assert [answer.status_code for answer in tried] == [401, 401, 401, 429]
    problem = check_problem(right, 429, "too_many_requests")
    assert 0 < int(right.headers["Retry-After"]) <= 1_200
    assert "RateLimit" not in right.headers
    assert problem["detail"] == check_problem(tried[3], 429)["detail"]
    assert elsewhere.status_code == 200


async def test_an_account_that_is_none_has_the_same_limit(start: Start, email: str) -> None:
    async with start(login_limit_attempts=3, **PROXIED) as api:
        tried = [await attempt(api, email, "203.0.113.1") for _ in range(4)]
    assert [answer.status_code for answer in tried] == [401, 401, 401, 429]


async def test_one_network_of_ipv6_is_one_address(start: Start, email: str) -> None:
    async with start(login_limit_attempts=2, **PROXIED) as api:
        tried = [await attempt(api, email, f"2001:db8:1:1::{n}") for n in range(1, 4)]
    assert [answer.status_code for answer in tried] == [401, 401, 429]


async def test_an_address_tries_so_many_accounts(start: Start) -> None:
    async with start(login_limit_attempts=1, **PROXIED) as api:
        tried = [await attempt(api, f"{n}@example.com", "203.0.113.1") for n in range(11)]
        registered = await register(api, "new@example.com", "203.0.113.1")
    assert [answer.status_code for answer in tried] == [401] * 10 + [429]
    check_problem(registered, 429)


async def test_an_address_registers_so_many(start: Start, email: str) -> None:
    async with start(login_limit_attempts=1, **PROXIED) as api:
        answers = [await register(api, f"{n}-{email}", "203.0.113.1") for n in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]


async def test_a_mailbox_is_registered_so_often_by_whatever_name_and_from_wherever(
    start: Start, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_limits, "MAILBOX_REGISTRATIONS", 3)
    local, _, domain = email.partition("@")
    names = [email, f"{local}+a@{domain}", f"a.{local[1:]}+b@{domain}", f"{local}+c@{domain}"]
    async with start(smtp_host="mail.example.com", **PROXIED) as api:
        answers = [await register(api, n, f"203.0.113.{i}") for i, n in enumerate(names)]
        taken = await register(api, email, "203.0.113.9")
        other = await register(api, f"other-{email}", "203.0.113.9")
        signed_in = await attempt(api, email, "203.0.113.9", PASSWORD)
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    # Nor does it tell whether the address is taken.
    assert check_problem(taken, 429)["detail"] == check_problem(answers[3], 429)["detail"]
    assert (other.status_code, signed_in.status_code) == (202, 200)


async def test_a_crowd_of_attackers_keeps_no_owner_out(start: Start, email: str) -> None:
    home, abroad = "203.0.113.1", "203.0.113.200"
    async with start(login_limit_attempts=2, **PROXIED) as api:
        await register(api, email, home)
        assert (await attempt(api, email, home, PASSWORD)).status_code == 200
        crowd = [await attempt(api, email, f"198.51.100.{n}") for n in range(12)]
        at_home = await attempt(api, email, home, PASSWORD)
        on_a_journey = await attempt(api, email, abroad, PASSWORD)
    assert [answer.status_code for answer in crowd] == [401] * 9 + [429] * 3
    assert at_home.status_code == 200
    # Until one more attempt has come back.
    check_problem(on_a_journey, 429)
    assert int(on_a_journey.headers["Retry-After"]) <= 360


async def test_a_session_is_refreshed_so_often(start: Start, email: str, redis_url: str) -> None:
    async with start(login_limit_attempts=1, **PROXIED) as api:
        await register(api, email, "203.0.113.1")
        tokens = (await attempt(api, email, "203.0.113.1", PASSWORD)).json()
        for _ in range(3):
            tokens = (await refresh(api, tokens)).json()
        check_problem(await refresh(api, tokens), 429, "too_many_requests")
        # A token that came too early is as good as before.
        await fill_buckets(redis_url)
        assert (await refresh(api, tokens)).status_code == 200


async def test_without_redis_each_process_counts_by_itself(start: Start, email: str) -> None:
    async with start(login_limit_attempts=4, redis_url="redis://127.0.0.1:1/0", **PROXIED) as api:
        tried = [await attempt(api, email, "203.0.113.1") for _ in range(3)]
    assert [answer.status_code for answer in tried] == [401, 401, 429]
