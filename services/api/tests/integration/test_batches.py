"""POST /api/v1/jobs/batch: each by itself or all together, and safe to repeat."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from taskflow.log_setup import REDACTED
from taskflow.sealing.form import json_sealed_by
from taskflow_api.batches import item_key
from taskflow_testing.api_keys import make_key
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.problems import check_problem

from .conftest import Register, Start

JOBS = "/api/v1/jobs"
BATCH = f"{JOBS}/batch"
ECHO = {"type": "echo"}
atomic_or_not = pytest.mark.parametrize("atomic", [False, True])


async def submit(
    api: httpx.AsyncClient, jobs: list[Any], key: str | None = None, **members: Any
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await api.post(BATCH, json={"jobs": jobs} | members, headers=headers)


def echoes(count: int) -> list[dict[str, Any]]:
    return [{"type": "echo", "payload": {"n": n}} for n in range(count)]


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 202, answer.text
    return [item["job"]["id"] for item in answer.json()["items"]]


def statuses(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 202, answer.text
    return [item["status"] for item in answer.json()["items"]]


def pointers(problem: dict[str, Any]) -> list[str]:
    return [error["pointer"] for error in problem["errors"]]


async def count(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM jobs")
    return found


@atomic_or_not
async def test_a_202_is_all_of_its_jobs_in_their_order(
    api: httpx.AsyncClient, connection: asyncpg.Connection, atomic: bool
) -> None:
    answer = await submit(api, echoes(450), atomic=atomic)

    told = answer.json()
    assert (answer.status_code, told["accepted"], told["refused"]) == (202, 450, 0)
    assert [item["job"]["payload"]["n"] for item in told["items"]] == list(range(450))
    rows = await connection.fetch("SELECT id::text, (payload ->> 'n')::int AS n FROM jobs")
    assert {row["id"]: row["n"] for row in rows} == dict(zip(ids(answer), range(450), strict=True))
    first = told["items"][0]
    assert (first["status"], first["replayed"], "problem" in first) == (202, False, False)
    assert (await api.get(first["job"]["links"]["self"])).json() == first["job"]
    transactions = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM jobs")
    assert (transactions == 1) is atomic


async def test_each_is_refused_by_itself(
    api: httpx.AsyncClient, register: Register, connection: asyncpg.Connection
) -> None:
    schema = {"type": "object", "properties": {"a/b": {"type": "integer"}}}
    await register("strict", schema=schema)
    bad: list[tuple[Any, int, str, str]] = [
        (5, 422, "invalid_content", ""),
        ({}, 422, "invalid_content", "/type"),
        (ECHO | {"typo": 1}, 422, "invalid_content", "/typo"),
        ({"type": "never.registered"}, 422, "unknown_job_type", "/type"),
        ({"type": "strict", "payload": {"a/b": "x"}}, 422, "invalid_content", "/payload/a~1b"),
        (ECHO | {"expires_at": "2020-01-01T00:00:00Z"}, 422, "invalid_content", "/expires_at"),
        (ECHO | {"depends_on": [str(uuid4())]}, 422, "invalid_content", "/depends_on/0"),
        (ECHO | {"payload": {"text": "\x00"}}, 422, "invalid_content", "/payload/text"),
    ]
    jobs = [each for value, *_ in bad for each in (ECHO, value)]

    answer = await submit(api, jobs)

    assert statuses(answer) == [202, 422] * len(bad)
    assert (answer.json()["accepted"], answer.json()["refused"]) == (len(bad), len(bad))
    for number, (_, status, code, pointer) in enumerate(bad):
        item = answer.json()["items"][2 * number + 1]
        assert item.keys() == {"status", "problem"}
        problem = item["problem"]
        assert (problem["status"], problem["code"]) == (status, code)
        assert problem["type"] == f"urn:taskflow:problem:{code}"
        assert pointers(problem) == [f"/jobs/{2 * number + 1}{pointer}"]
    assert await count(connection) == len(bad)


async def test_of_an_atomic_batch_all_are_accepted_or_none(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    jobs = [ECHO, {"type": "never.registered"}, ECHO | {"typo": 1}]
    problem = check_problem(await submit(api, jobs, atomic=True), 422, "unknown_job_type")
    assert pointers(problem) == ["/jobs/1/type", "/jobs/2/typo"]
    assert "2 of 3 jobs" in problem["detail"]
    assert await count(connection) == 0


@pytest.mark.parametrize("member", ["unique_key", "depends_on"])
async def test_what_other_jobs_decide_about_is_not_done_together(
    api: httpx.AsyncClient, connection: asyncpg.Connection, member: str
) -> None:
    parent = (await api.post(JOBS, json=ECHO)).json()["id"]
    job = ECHO | {member: "u" if member == "unique_key" else [parent]}
    problem = check_problem(await submit(api, [ECHO, job], atomic=True), 422, "invalid_content")
    assert pointers(problem) == [f"/jobs/1/{member}"]
    assert await count(connection) == 1


async def test_what_other_jobs_decide_about_is_answered_one_by_one(api: httpx.AsyncClient) -> None:
    parent = (await api.post(JOBS, json=ECHO)).json()["id"]
    unique = ECHO | {"unique_key": "u"}
    jobs = [unique, ECHO | {"depends_on": [parent]}, ECHO, unique]

    answer = await submit(api, jobs, "k")
    again = await submit(api, jobs, "k")

    assert statuses(answer) == statuses(again) == [202, 202, 202, 200]
    first, child, _, twin = (item["job"] for item in answer.json()["items"])
    assert child["state"] == "blocked"
    assert (twin["id"], twin["deduplicated"]) == (first["id"], True)
    assert ids(again) == ids(answer)
    assert again.headers["Idempotent-Replayed"] == "true"


@atomic_or_not
async def test_a_repeat_gives_the_first_answers_jobs_again(
    api: httpx.AsyncClient, register: Register, connection: asyncpg.Connection, atomic: bool
) -> None:
    first = await submit(api, echoes(3), "k" * 255, atomic=atomic)
    await register("echo", schema={"type": "object", "required": ["else"]})
    again = await submit(api, echoes(3), "k" * 255, atomic=atomic)

    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [item["replayed"] for item in again.json()["items"]] == [True] * 3
    shown = [[item["job"] for item in each.json()["items"]] for each in (first, again)]
    assert shown[0] == shown[1]
    assert await count(connection) == 3


@atomic_or_not
@pytest.mark.parametrize(
    "other",
    [
        {"jobs": echoes(1)},
        {"jobs": echoes(3)},
        {"jobs": [ECHO, echoes(2)[1]]},
        {"jobs": [{"type": "never.registered"}, echoes(2)[1]]},
        {"atomic": None},
    ],
    ids=["shorter", "longer", "changed", "refused", "atomic"],
)
async def test_a_key_is_not_used_for_two_batches(
    api: httpx.AsyncClient, connection: asyncpg.Connection, atomic: bool, other: dict[str, Any]
) -> None:
    body = {"jobs": echoes(2), "atomic": atomic}
    await api.post(BATCH, json=body, headers={"Idempotency-Key": "k"})
    changed = body | ({"atomic": not atomic} if "atomic" in other else other)
    refused = await api.post(BATCH, json=changed, headers={"Idempotency-Key": "k"})
    problem = check_problem(refused, 422, "idempotency_key_reused")
    assert "'k'" in problem["detail"]
    # Another path's keys are others.
    alone = await api.post(JOBS, json=ECHO, headers={"Idempotency-Key": "k"})
    assert alone.status_code == 202
    assert await count(connection) == 3


@atomic_or_not
@pytest.mark.parametrize(
    "jobs",
    [[ECHO], [5, ECHO], [{"typo": 1}], [5] * 3],
    ids=["shorter", "accepted beside no job", "no job at all", "refused alike"],
)
async def test_a_key_belongs_to_a_batch_of_which_only_a_part_was_accepted(
    api: httpx.AsyncClient, connection: asyncpg.Connection, atomic: bool, jobs: list[Any]
) -> None:
    first = await submit(api, [5, 5, ECHO], "k" * 255)
    other = await submit(api, jobs, "k" * 255, atomic=atomic)
    assert statuses(first) == [422, 422, 202]
    check_problem(other, 422, "idempotency_key_reused")
    assert await count(connection) == 1


async def test_what_was_refused_is_tried_again_under_the_same_key(
    api: httpx.AsyncClient, register: Register
) -> None:
    jobs = [ECHO, {"type": "later"}, ECHO]
    first = await submit(api, jobs, "k")
    await register("later")
    again = await submit(api, jobs, "k")

    assert (statuses(first), statuses(again)) == ([202, 422, 202], [202, 202, 202])
    assert [item["replayed"] for item in again.json()["items"]] == [True, False, True]
    assert "Idempotent-Replayed" not in again.headers
    assert ids(again)[::2] == [item["job"]["id"] for item in first.json()["items"][::2]]


@atomic_or_not
async def test_ten_at_once_with_one_key_are_one_batch(
    api: httpx.AsyncClient, connection: asyncpg.Connection, atomic: bool
) -> None:
    answers = await asyncio.gather(
        *(submit(api, echoes(20), "k", atomic=atomic) for _ in range(10))
    )
    assert len({tuple(ids(answer)) for answer in answers}) == 1
    assert await count(connection) == 20


@atomic_or_not
async def test_a_commit_that_takes_too_long_is_a_503_and_happens_once(
    api: httpx.AsyncClient, connection: asyncpg.Connection, monkeypatch: Any, atomic: bool
) -> None:
    await api.post(JOBS, json=ECHO)
    async with connection.transaction():
        await connection.execute("LOCK TABLE jobs IN SHARE MODE")
        monkeypatch.setattr("taskflow_api.submissions.ANSWER_SECONDS", 0.2)
        late = await submit(api, echoes(3), "k", atomic=atomic)
    monkeypatch.undo()
    again = await submit(api, echoes(3), "k", atomic=atomic)

    check_problem(late, 503, "service_unavailable")
    assert statuses(again) == [202] * 3
    assert await count(connection) == 4


async def test_a_quota_refuses_what_is_beyond_it(start: Start) -> None:
    async with start(quota_waiting_jobs=3) as api:
        answer = await submit(api, echoes(5))
        assert statuses(answer) == [202, 202, 202, 429, 429]
        problem = answer.json()["items"][4]["problem"]
        assert (problem["code"], problem["quota"], problem["limit"]) == (
            "quota_exceeded", "waiting_jobs", 3,
        )  # fmt: skip
        assert pointers(problem) == ["/jobs/4"]
        assert problem["retry_after_seconds"] > 0


async def test_a_quota_refuses_an_atomic_batch_that_goes_beyond_it(
    start: Start, connection: asyncpg.Connection
) -> None:
    async with start(quota_waiting_jobs=3) as api:
        refused = await submit(api, echoes(4), "k", atomic=True)
        problem = check_problem(refused, 429, "quota_exceeded")
        assert (problem["quota"], pointers(problem)) == ("waiting_jobs", ["/jobs/3"])
        assert int(refused.headers["Retry-After"]) > 0
        assert await count(connection) == 0
        # The key is free, and what fits is accepted, and found again however full it is.
        accepted = await submit(api, echoes(3), "k", atomic=True)
        assert ids(await submit(api, echoes(3), "k", atomic=True)) == ids(accepted)


async def test_a_batch_costs_as_much_as_its_jobs_alone(
    start: Start, redis_url: str, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
) -> None:
    monkeypatch.setattr("taskflow_api.rate_limits.shared_buckets.ANSWER_SECONDS", 10.0)
    async with Redis.from_url(redis_url) as redis:
        async for key in redis.scan_iter("taskflow:limit:*"):
            await redis.delete(key)
    async with start(tenant_limit_requests=10, tenant_limit_seconds=3_600) as api:
        too_large = check_problem(await submit(api, echoes(11)), 422, "invalid_content")
        assert pointers(too_large) == ["/jobs"]
        accepted = await submit(api, echoes(6))
        refused = await submit(api, echoes(4))
    assert ids(accepted)
    assert accepted.headers["RateLimit"].startswith('"default";r=3;')
    check_problem(refused, 429, "too_many_requests")
    # One more token would be taken by whoever comes again.
    assert 700 < int(refused.headers["Retry-After"]) <= 720
    assert await count(connection) == 6


async def test_rights_are_asked_for_each_job(
    api: httpx.AsyncClient, register: Register, connection: asyncpg.Connection
) -> None:
    await register("refund")
    tenant = await connection.fetchval(
        "INSERT INTO tenants (id, name, is_registered) VALUES ($1, 'eve', true) RETURNING id",
        uuid4(),
    )
    eve = {"X-API-Key": (await make_key(connection, tenant_id=tenant)).key.text}
    jobs = [ECHO, {"type": "refund"}, ECHO | {"max_attempts": 11}]
    each = await api.post(BATCH, json={"jobs": jobs}, headers=eve)
    none = await api.post(BATCH, json={"jobs": jobs, "atomic": True}, headers=eve)

    assert statuses(each) == [202, 403, 422]
    problems = [item["problem"] for item in each.json()["items"][1:]]
    assert [problem["code"] for problem in problems] == ["job_type_not_allowed", "invalid_content"]
    assert [pointers(problem) for problem in problems] == [["/jobs/1"], ["/jobs/2/max_attempts"]]
    problem = check_problem(none, 403, "job_type_not_allowed")
    assert pointers(problem) == ["/jobs/1", "/jobs/2/max_attempts"]
    assert await count(connection) == 1


async def test_batches_of_two_tenants_have_nothing_to_do_with_each_other(
    api: httpx.AsyncClient, jobs: Jobs
) -> None:
    other = UUID("00000000-0000-7000-8000-000000000002")
    theirs = {"X-API-Key": (await make_key(jobs.connection, tenant_id=other)).key.text}
    headers = {"Idempotency-Key": "k"}
    body = {"jobs": [ECHO, ECHO | {"unique_key": "u"}]}
    mine = await api.post(BATCH, json=body, headers=headers)
    answer = await api.post(BATCH, json=body, headers=headers | theirs)
    assert not set(ids(mine)) & set(ids(answer))
    for found, tenant in ((mine, TENANT), (answer, other)):
        for job_id in ids(found):
            assert (await jobs.row(UUID(job_id)))["tenant_id"] == tenant


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/jobs"),
        ({"jobs": []}, "/jobs"),
        ({"jobs": [ECHO] * 1_001}, "/jobs"),
        ({"jobs": {}}, "/jobs"),
        ({"jobs": [ECHO], "atomic": 1}, "/atomic"),
        ({"jobs": [ECHO], "name": "x"}, "/name"),
    ],
    ids=["no jobs", "none of them", "too many", "no list", "atomic", "unknown"],
)
async def test_a_batch_must_be_one(
    api: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    problem = check_problem(await api.post(BATCH, json=body), 422, "invalid_content")
    assert pointers(problem) == [pointer]


@atomic_or_not
async def test_a_job_may_be_nested_as_deep_as_alone(api: httpx.AsyncClient, atomic: bool) -> None:
    value: Any = 1
    for _ in range(30):
        value = [value]
    job = ECHO | {"payload": {"v": value}}
    deeper = ECHO | {"payload": {"v": [value]}}
    assert (await api.post(JOBS, json=job)).status_code == 202
    assert statuses(await submit(api, [job], atomic=atomic)) == [202]
    for refused in (await api.post(JOBS, json=deeper), await submit(api, [deeper], atomic=atomic)):
        check_problem(refused, 400, "malformed_body")


async def test_live_jobs_that_are_found_are_shown_one_after_another(
    app: FastAPI, api: httpx.AsyncClient
) -> None:
    """An answer may be a thousand times the request, which no process is to have in memory."""
    large = ECHO | {"payload": {"text": "x" * 200_000}}
    for name in "ab":
        await api.post(JOBS, json=large | {"unique_key": name})
    pieces = []

    async def weighed(scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            pieces.append(len(message.get("body", b"")))
            await send(message)

        await app(scope, receive, watch)

    transport = httpx.ASGITransport(app=weighed)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://api", headers=api.headers
    ) as client:
        jobs = [ECHO | {"unique_key": name} for name in "ab" * 10]
        answer = await submit(client, jobs)
    assert statuses(answer) == [200] * 20
    assert (answer.json()["accepted"], answer.json()["refused"]) == (20, 0)
    assert {len(item["job"]["payload"]["text"]) for item in answer.json()["items"]} == {200_000}
    assert len(answer.content) > 4_000_000
    assert max(pieces) < 300_000


@atomic_or_not
async def test_payloads_are_sealed_and_repeated_whatever_seals_by_now(
    start: Start, connection: asyncpg.Connection, atomic: bool
) -> None:
    old, new = (f"{name}:{base64.b64encode(name.encode() * 32).decode()}" for name in "on")
    found = set()
    for keys in (old, f"{new},{old}"):
        async with start(payload_keys=keys) as api:
            answer = await submit(api, echoes(3), "k", atomic=atomic)
            assert [item["job"]["payload"]["n"] for item in answer.json()["items"]] == [0, 1, 2]
            found.add(tuple(ids(answer)))
            refused = await submit(api, echoes(4), "k", atomic=atomic)
            check_problem(refused, 422, "idempotency_key_reused")
    assert len(found) == 1
    payloads = await connection.fetch("SELECT payload FROM jobs")
    assert [json_sealed_by(row["payload"]) for row in payloads] == ["o"] * 3


async def test_what_is_marked_secret_is_not_shown(
    api: httpx.AsyncClient, register: Callable[..., Awaitable[None]]
) -> None:
    await register("mail", schema={"properties": {"password": {"writeOnly": True}}})
    job = {"type": "mail", "payload": {"password": "canary"}}
    first = await submit(api, [job], "k")
    await register("mail", schema={"properties": {"password": {"writeOnly": True}, "to": False}})
    again = await submit(api, [job], "k")
    for answer in (first, again):
        assert answer.json()["items"][0]["job"]["payload"] == {"password": REDACTED}


def test_keys_of_jobs_are_no_longer_than_one() -> None:
    assert item_key("order-1", 7) == "order-1/7"
    long = [item_key(letter * 255, 999) for letter in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 255
