"""Keys over HTTP: made and shown once, good while they are, and over within a second everywhere."""

import asyncio
import time
from collections.abc import Awaitable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from taskflow.access.key_lookup import look_up
from taskflow.access.scopes import Scope
from taskflow.api_key import ApiKey, generate
from taskflow_testing.api_keys import make_key
from taskflow_testing.problems import check_problem
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

KEYS = "/api/v1/api-keys"
JOBS = "/api/v1/jobs"
WANTED = {"name": "shop", "scopes": ["jobs:read"]}


async def make(api: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await api.post(KEYS, json=WANTED | changes)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def status_with(api: httpx.AsyncClient, key: str, path: str = JOBS) -> int:
    return (await api.get(path, headers={"X-API-Key": key})).status_code


async def test_a_key_is_shown_once_and_works_from_then_on(api: httpx.AsyncClient) -> None:
    answer = await api.post(KEYS, json=WANTED)
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.json()
    key = made.pop("key")
    assert made["prefix"] == key[: len("tf_live_") + 8]
    assert (made["state"], made["created_by"]) == (
        "active",
        {"kind": "settings", "id": "settings"},
    )

    for headers in ({"X-API-Key": key}, {"X-API-Key": "", "Authorization": f"Bearer {key}"}):
        assert (await api.get(JOBS, headers=headers)).status_code == 200
    refused = await api.post(JOBS, json={"type": "echo"}, headers={"X-API-Key": key})
    check_problem(refused, 403, "insufficient_scope")

    read, listed = await api.get(answer.headers["Location"]), await api.get(KEYS)
    assert read.json() == made
    assert listed.json()["items"] == [made]
    log = await api.get("/api/v1/audit-log")
    secret = key.rpartition("_")[2]
    assert not [each for each in (read, listed, log) if secret in each.text]


async def test_the_key_of_the_settings_may_look_like_a_token(start: Any) -> None:
    key = "chosen.by-an.operator"
    async with start(api_key=key) as api:
        del api.headers["X-API-Key"]
        answer = await api.get(JOBS, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        check_problem(await api.get(JOBS, headers={"Authorization": f"Bearer {key}s"}), 401)


async def test_who_made_a_key_is_told_by_it(api: httpx.AsyncClient) -> None:
    first = await make(api, scopes=["admin"])
    second = await api.post(KEYS, json=WANTED, headers={"X-API-Key": first["key"]})
    assert second.json()["created_by"] == {"kind": "key", "id": first["id"]}


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.ADMIN])
async def test_no_key_comes_from_one_that_lacks_what_it_would_hold(
    api: httpx.AsyncClient, scope: Scope
) -> None:
    key = {"X-API-Key": (await make(api, scopes=[scope]))["key"]}
    for wanted in Scope:
        answer = await api.post(KEYS, json=WANTED | {"scopes": [wanted]}, headers=key)
        check_problem(answer, 403, "insufficient_scope")
    assert len((await api.get(KEYS)).json()["items"]) == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"name": "\0"}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["everything"]}, "/scopes/0"),
        ({"scopes": "admin"}, "/scopes"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": 2_000_000_000}, "/expires_at"),
        ({"tenant_id": str(uuid4())}, "/tenant_id"),
        ({"key": "tf_live_mine"}, "/key"),
    ],
)
async def test_a_key_that_can_not_be_is_a_422(
    api: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    problem = check_problem(await api.post(KEYS, json=WANTED | body), 422, "invalid_content")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize("body", [{"overlap_seconds": -1}, {"overlap_seconds": "1"}, {"name": "x"}])
async def test_a_rotation_that_can_not_be_is_a_422(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    made = await make(api)
    check_problem(await api.post(f"{KEYS}/{made['id']}/rotate", json=body), 422, "invalid_content")
    assert await status_with(api, made["key"]) == 200


async def test_a_secret_must_belong_to_its_id(api: httpx.AsyncClient) -> None:
    key = (await make(api))["key"]
    key_id = key.split("_")[2]
    for wrong in (ApiKey(key_id, generate().secret).text, generate().text):
        assert await status_with(api, wrong) == 401
    assert await status_with(api, key) == 200


async def test_a_wrong_checksum_needs_no_look_and_a_key_is_never_refused_for_want_of_one(
    start: Any, clean_database: str
) -> None:
    async with TcpProxy(clean_database) as proxy, start(database_url=proxy.url) as api:
        key = (await make(api))["key"]
        proxy.go_down()
        assert await status_with(api, key[:-1] + ("a" if key[-1] != "a" else "b")) == 401
        # What is wrong with the address is told to who is known, of which nothing need be read.
        odd = f"{JOBS}?limit=0"
        assert await eventually(lambda: _is(status_with(api, key, odd), 503))
        answer = await api.get(odd, headers={"X-API-Key": key})
        check_problem(answer, 503, "service_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        check_problem(await api.get(odd), 422)
        proxy.come_back()
        assert await eventually(lambda: _is(status_with(api, key), 200))


async def _is(status: Awaitable[int], wanted: int) -> bool:
    return await status == wanted


async def seconds_until_refused(api: httpx.AsyncClient, key: str) -> float:
    """While it is asked on and on."""
    began = time.monotonic()
    while (status := await status_with(api, key)) == 200:
        assert time.monotonic() - began < 10
    assert status == 401
    return time.monotonic() - began


async def test_a_revoked_key_is_refused_by_every_process_within_a_second(start: Any) -> None:
    async with start() as one, start() as other:
        made = await make(one)
        path = f"{KEYS}/{made['id']}"
        assert [await status_with(each, made["key"]) for each in (one, other)] == [200, 200]
        assert (await one.delete(path)).status_code == 204
        took = await asyncio.gather(
            *(seconds_until_refused(each, made["key"]) for each in (one, other))
        )
        assert max(took) < 1
        assert (await other.delete(path)).status_code == 204
        assert (await other.get(path)).json()["state"] == "revoked"


async def test_both_keys_are_good_for_the_overlap_and_the_new_one_after_it(start: Any) -> None:
    async with start() as one, start() as other:
        old = await make(one)
        answer = await one.post(f"{KEYS}/{old['id']}/rotate", json={"overlap_seconds": 1})
        assert answer.status_code == 201
        new = answer.json()
        assert (new["replaces"], new["name"], new["scopes"]) == (
            old["id"],
            old["name"],
            old["scopes"],
        )
        for api in (one, other):
            for each in (old, new):
                assert await status_with(api, each["key"]) == 200
        again = await one.post(f"{KEYS}/{old['id']}/rotate", json={})
        check_problem(again, 409, "api_key_conflict")
        took = await asyncio.gather(
            *(seconds_until_refused(each, old["key"]) for each in (one, other))
        )
        assert max(took) < 2
        assert [await status_with(each, new["key"]) for each in (one, other)] == [200, 200]


async def test_a_key_ends_by_itself(api: httpx.AsyncClient) -> None:
    ends_at = datetime.now(UTC) + timedelta(seconds=1)
    made = await make(api, expires_at=ends_at.isoformat())
    assert await status_with(api, made["key"]) == 200
    assert await seconds_until_refused(api, made["key"]) < 2
    assert (await api.get(f"{KEYS}/{made['id']}")).json()["state"] == "expired"


async def test_a_key_may_end_with_time_itself(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    last = "9999-12-31T23:59:59.9999999Z"
    made = await make(api, expires_at=last)
    assert await status_with(api, made["key"]) == 200
    new = await api.post(f"{KEYS}/{made['id']}/rotate", json={})
    assert new.status_code == 201
    assert new.json()["expires_at"] == made["expires_at"]
    assert await connection.fetchval("SELECT every(isfinite(expires_at)) FROM api_keys")


async def test_a_key_is_renamed(api: httpx.AsyncClient) -> None:
    made = await make(api)
    answer = await api.patch(f"{KEYS}/{made['id']}", json={"name": "till"})
    assert (answer.status_code, answer.json()["name"]) == (200, "till")
    assert await status_with(api, made["key"]) == 200


async def test_pages_of_keys_skip_none(api: httpx.AsyncClient) -> None:
    made = [(await make(api, name=f"key {number}"))["id"] for number in range(5)]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = (await api.get(KEYS, params=params)).json()
        seen += [item["id"] for item in page["items"]]
        if not page["has_more"]:
            break
        await make(api)
        params["cursor"] = page["next_cursor"]
    assert seen == made[::-1]
    refused = await api.get("/api/v1/audit-log", params=params)
    check_problem(refused, 422, "invalid_cursor")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Collection[str]]:
    """The key ids of each look at PostgreSQL."""
    made: list[Collection[str]] = []

    async def counted(connection: Any, key_ids: Collection[str]) -> Any:
        made.append(key_ids)
        return await look_up(connection, key_ids)

    monkeypatch.setattr("taskflow_api.stored_keys.look_up", counted)
    return made


async def test_many_requests_need_one_look(
    api: httpx.AsyncClient, looks: list[Collection[str]]
) -> None:
    key, unknown = (await make(api))["key"], generate().text
    statuses = await asyncio.gather(*(status_with(api, key) for _ in range(50)))
    assert set(statuses) == {200}
    assert len(looks) == 1
    statuses = await asyncio.gather(*(status_with(api, unknown) for _ in range(50)))
    assert set(statuses) == {401}
    assert len(looks) == 2


async def test_what_is_known_of_keys_is_bounded(
    start: Any, monkeypatch: pytest.MonkeyPatch, looks: list[Collection[str]]
) -> None:
    monkeypatch.setattr("taskflow_api.stored_keys.FRESH_SECONDS", 600.0)
    monkeypatch.setattr("taskflow_api.stored_keys.MAX_KNOWN", 3)
    keys = [generate().text for _ in range(8)]
    async with start() as api:
        for key in keys:
            assert await status_with(api, key) == 401
        assert await status_with(api, keys[-1]) == 401
        assert len(looks) == 8
        assert await status_with(api, keys[0]) == 401
        assert len(looks) == 9


async def test_that_a_key_is_used_is_seen_soon_and_holds_nothing_up(
    start: Any, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.stored_keys.WRITE_SECONDS", 0.05)
    made = await make_key(connection)
    last_used = "SELECT last_used_at FROM api_keys WHERE id = $1"
    async with start() as api, connection.transaction():
        # Nobody can write the row meanwhile.
        await connection.execute("SELECT FROM api_keys FOR UPDATE")
        assert await status_with(api, made.key.text) == 200
    other = await make_key(connection)
    async with start() as api:
        assert await status_with(api, other.key.text) == 200

        async def is_noted() -> bool:
            return await connection.fetchval(last_used, other.id) is not None

        assert await eventually(is_noted)
        shown = (await api.get(f"{KEYS}/{other.id}")).json()["last_used_at"]
        assert shown is not None
        assert await status_with(api, other.key.text) == 200
        assert (await api.get(f"{KEYS}/{other.id}")).json()["last_used_at"] == shown


async def test_what_was_used_last_is_written_at_the_end(
    start: Any, connection: asyncpg.Connection
) -> None:
    made = await make_key(connection)
    async with start() as api:
        assert await status_with(api, made.key.text) == 200
    assert await connection.fetchval("SELECT last_used_at FROM api_keys") is not None
