"""The layers that a request meets before anything of it is read."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from taskflow.settings import ApiSettings
from taskflow_api import app as app_module
from taskflow_api.app import create_app
from taskflow_api.client_address import Client
from taskflow_api.middleware.address_limit import AddressLimitMiddleware
from taskflow_testing.problems import check_problem

KEY = "tf_live_testing_only"
JOBS = "/api/v1/jobs"


@asynccontextmanager
async def door(*, peer: str = "203.0.113.9", **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client at this address of a service with these settings, none of whose servers is there."""
    nowhere = "127.0.0.1:1"
    values: dict[str, Any] = {
        "database_url": f"postgresql://u:p@{nowhere}/taskflow",
        "amqp_url": f"amqp://{nowhere}/taskflow",
        "redis_url": f"redis://{nowhere}/0",
        "s3_endpoint": f"http://{nowhere}",
        "s3_access_key": "access",
        "s3_secret_key": "secret",
        "api_key": KEY,
        "jwt_secret": "of_at_least_thirty_two_characters",
    }
    app: FastAPI = create_app(ApiSettings(_env_file=None, **values | changes))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(peer, 4711))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "api", "127.0.0.1", "127.0.0.1:8000",
     "[::1]:8000", "192.0.2.7"],
)  # fmt: skip
async def test_it_answers_to_its_names_and_to_addresses(host: str) -> None:
    async with door() as api:
        assert (await api.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "xlocalhost", "127.0.0.1.evil.example", "1.2.3"],
)
async def test_a_name_of_somebody_elses_is_a_421(host: str) -> None:
    async with door() as api:
        check_problem(await api.get("/healthz", headers={"Host": host}), 421, "unknown_host")


@pytest.mark.parametrize(
    "hosts", [[""], ["a b"], ["localhost", "localhost"], ["localhost:99999999"], ["user@localhost"],
              ["localhost/"], ["[::1"], []]
)  # fmt: skip
async def test_there_is_one_host_and_it_is_well_formed(hosts: list[str]) -> None:
    async with door() as api:
        request = api.build_request("GET", "/healthz")
        request.headers = httpx.Headers([("Host", host) for host in hosts])
        check_problem(await api.send(request), 400, "bad_request")


async def test_names_are_a_setting() -> None:
    async with door(allowed_hosts="Tasks.example.com,*.apps.example.com") as api:
        for host in ("tasks.example.com", "a.apps.example.com", "a.b.apps.example.com:443"):
            assert (await api.get("/healthz", headers={"Host": host})).status_code == 200
        for host in ("localhost", "apps.example.com", "evilapps.example.com"):
            assert (await api.get("/healthz", headers={"Host": host})).status_code == 421


async def test_a_request_is_given_up_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert app_module.REQUEST_SECONDS == 60
    monkeypatch.setattr(app_module, "REQUEST_SECONDS", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with door() as api, asyncio.timeout(30):
        headers = {"Content-Type": "application/json"}
        answer = await api.post("/api/v1/auth/token", content=body(), headers=headers)
    check_problem(answer, 408, "request_timeout")


async def test_an_address_may_ask_so_often_and_no_more() -> None:
    async with door(address_limit_requests=3, address_limit_seconds=60) as api:
        answers = [await api.get("/healthz") for _ in range(3)]
        refused = await api.get("/nowhere")
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers["RateLimit"].split(";t=")[0] for answer in answers] == [
        '"address";r=2', '"address";r=1', '"address";r=0',
    ]  # fmt: skip
    check_problem(refused, 429, "too_many_requests")
    assert refused.headers["RateLimit-Policy"] == '"address";q=3;w=60'
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit"] == f'"address";r=0;t={refused.headers["Retry-After"]}'


async def test_a_streamed_answer_begins_once() -> None:
    async with door(address_limit_requests=3) as api:
        answer = await api.get("/docs-assets/swagger-ui-bundle.js")
    assert answer.status_code == 200
    assert len(answer.content) == int(answer.headers["Content-Length"])
    assert len(answer.headers.get_list("RateLimit")) == 1


async def test_a_spoofed_address_neither_frees_nor_blames() -> None:
    async with door(address_limit_requests=2) as api:
        for spoofed in ("127.0.0.1", "198.51.100.1", "198.51.100.2"):
            answer = await api.get("/healthz", headers={"X-Forwarded-For": spoofed})
    assert answer.status_code == 429


async def test_behind_a_proxy_each_client_has_a_limit_of_its_own() -> None:
    async with door(peer="10.0.0.1", address_limit_requests=2, trusted_proxies="10.0.0.1") as api:

        async def ask(forwarded: str) -> int:
            answer = await api.get("/healthz", headers={"X-Forwarded-For": forwarded})
            return answer.status_code

        assert [await ask("198.51.100.1") for _ in range(3)] == [200, 200, 429]
        # What the client itself wrote stands on the left.
        assert await ask("127.0.0.1, 198.51.100.1") == 429
        assert await ask("198.51.100.2") == 200
        assert [await ask("2001:db9::1:1"), await ask("2001:db9::2:2")] == [200, 200]
        assert await ask("2001:db9::3:3") == 429


async def test_a_flood_from_everywhere_is_counted_by_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskflow_api.middleware.address_limit.MAX_COUNTERS", 5)
    settings = {"address_limit_requests": 2, "trusted_proxies": "10.0.0.1"}
    async with door(peer="10.0.0.1", **settings) as api:
        statuses = [
            (await api.get("/healthz", headers={"X-Forwarded-For": f"198.51.100.{n}"})).status_code
            for n in range(20)
        ]
    assert statuses == [200] * 8 + [429] * 12


async def test_counters_are_let_go_and_no_thread_sweeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskflow_api.middleware.address_limit.SWEEP_SECONDS", 0.0)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    layer = AddressLimitMiddleware(_answer_nothing, requests=5, seconds=10, unlimited=[])
    threads = threading.active_count()

    for number in range(20):
        await _ask(layer, f"198.51.100.{number}")
    assert len(layer._storage.storage) == 20
    now += 21
    await _ask(layer, "198.51.100.1")
    assert len(layer._storage.storage) == 1
    assert threading.active_count() == threads


async def test_counters_are_let_go_though_the_clock_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taskflow_api.middleware.address_limit.SWEEP_SECONDS", 0.0)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    layer = AddressLimitMiddleware(_answer_nothing, requests=5, seconds=10, unlimited=[])

    await _ask(layer, "198.51.100.1")
    now -= 3600
    for number in range(20):
        await _ask(layer, f"203.0.113.{number}")
    now += 21
    await _ask(layer, "198.51.100.2")
    assert len(layer._storage.storage) == 2


async def _ask(layer: AddressLimitMiddleware, address: str) -> None:
    state = {"client": Client(address, "http")}
    await layer({"type": "http", "state": state}, _receive_nothing, _send_nothing)


async def _answer_nothing(_scope: Scope, _receive: Receive, _send: Send) -> None: ...


async def _send_nothing(_message: Message) -> None: ...


async def _receive_nothing() -> Message:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("peer", "changes"),
    [
        ("127.0.0.1", {}),
        ("203.0.113.9", {"address_limit_requests": 0}),
        ("203.0.113.9", {"unlimited_addresses": "203.0.113.0/24"}),
    ],
)
async def test_who_is_not_limited_is_told_nothing_of_limits(
    peer: str, changes: dict[str, Any]
) -> None:
    async with door(peer=peer, **{"address_limit_requests": 1} | changes) as api:
        answers = [await api.get("/healthz") for _ in range(3)]
    assert all(answer.status_code == 200 for answer in answers)
    assert not any("RateLimit" in answer.headers for answer in answers)


async def test_loopback_is_limited_where_none_is_exempt() -> None:
    async with door(peer="127.0.0.1", address_limit_requests=1, unlimited_addresses="none") as api:
        assert [(await api.get("/healthz")).status_code for _ in range(2)] == [200, 429]


PREFLIGHT = {
    "Origin": "https://pages.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-api-key, content-type, idempotency-key",
}


async def test_no_other_origin_is_let_in_by_default() -> None:
    async with door() as api:
        preflight = await api.options(JOBS, headers=PREFLIGHT)
        answer = await api.get("/healthz", headers={"Origin": "https://pages.example"})
    check_problem(preflight, 405, "method_not_allowed")
    assert not any(name.startswith("access-control") for name in preflight.headers)
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_the_origins_of_the_list_are_let_in() -> None:
    async with door(cors_origins="https://pages.example,http://localhost:3000") as api:
        preflight = await api.options(JOBS, headers=PREFLIGHT)
        answer = await api.get(JOBS, headers={"Origin": "https://pages.example"})
        other = await api.get("/healthz", headers={"Origin": "https://evil.example"})
        refusals = [
            await api.options(JOBS, headers=PREFLIGHT | change)
            for change in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Access-Control-Request-Method": "PUT"},
                {"Access-Control-Request-Headers": "x-other"},
            )
        ]
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://pages.example"
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    # A page can read why it is refused, too.
    check_problem(answer, 401)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://pages.example"
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in other.headers
    assert other.headers["Vary"] == "Origin"
    for refusal in refusals:
        check_problem(refusal, 403, "origin_not_allowed")


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", JOBS, "/docs", "/redoc", "/openapi.json"])
async def test_every_answer_tells_a_browser_what_it_may_do(path: str) -> None:
    async with door() as api:
        headers = (await api.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Permissions-Policy"].startswith("camera=()")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] in {"no-store", "no-cache"}
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    scripts = policy.get("script-src", policy["default-src"])
    assert scripts in {"'none'", "'self'"}
    assert "Strict-Transport-Security" not in headers


async def test_https_is_demanded_where_it_was_used() -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https"}
    async with door(peer="10.0.0.1", trusted_proxies="10.0.0.0/8") as api:
        secure = await api.get("/nowhere", headers=forwarded)
        plain = await api.get("/nowhere", headers=forwarded | {"X-Forwarded-Proto": "http"})
    async with door() as api:
        spoofed = await api.get("/nowhere", headers=forwarded)
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in plain.headers
    assert "Strict-Transport-Security" not in spoofed.headers
