"""POST /api/v1/jobs: accepted, replayed, deduplicated, refused."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from taskflow.broker import topology
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.log_setup import REDACTED
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"


async def submit(api: httpx.AsyncClient, key: str | None = None, /, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await api.post(JOBS, json={"type": "echo"} | body, headers=headers)


async def test_a_202_is_the_committed_job(api: httpx.AsyncClient, jobs: Jobs) -> None:
    answer = await submit(api, payload={"text": "Zürich 🏔"}, tags=["a"], metadata={"n": 1})

    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["Location"] == job["links"]["self"] == f"{JOBS}/{job['id']}"
    assert UUID(job["id"]).version == 7
    row = await jobs.row(UUID(job["id"]))
    assert (row["state"], row["queue"], row["priority"]) == ("queued", "default", "medium")
    assert json.loads(row["payload"]) == {"text": "Zürich 🏔"}
    # What it was told is what it will read.
    assert (await api.get(answer.headers["Location"])).json() == job


async def test_the_pointer_is_in_its_lane(
    api: httpx.AsyncClient, app: FastAPI, amqp_url: str
) -> None:
    await eventually(lambda: _is_ready(app))
    queue = f"q-{uuid4().hex[:8]}"
    job = (await submit(api, queue=queue, priority="high")).json()
    await app.state.resources.relay.wait_idle()

    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        lane = await channel.get_queue(topology.lane_queue(Lane(queue, Priority.HIGH)))
        message = await lane.get(timeout=5)
        await message.ack()
    assert message.message_id == job["id"]


async def _is_ready(app: FastAPI) -> bool:
    return bool(app.state.resources.relay.ready)


async def test_defaults_come_from_the_type(api: httpx.AsyncClient, register: Any) -> None:
    await register("resize", queue="media", max_attempts=7, timeout_seconds=12.5)

    told = (await submit(api, type="resize")).json()
    own = (await submit(api, type="resize", queue="mine", max_attempts=1, timeout_seconds=3)).json()

    assert (told["queue"], told["max_attempts"], told["timeout_seconds"]) == ("media", 7, 12.5)
    assert (own["queue"], own["max_attempts"], own["timeout_seconds"]) == ("mine", 1, 3)


async def test_a_delay_makes_it_scheduled(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job = (await submit(api, delay_seconds=3600, ttl_seconds=7200)).json()

    assert job["state"] == "scheduled"
    created = datetime.fromisoformat(job["created_at"])
    assert datetime.fromisoformat(job["run_at"]) - created == timedelta(hours=1)
    assert datetime.fromisoformat(job["expires_at"]) - created == timedelta(hours=2)
    assert (await jobs.row(UUID(job["id"])))["pointer_at"] is None


@pytest.mark.parametrize(
    ("run_at", "state"),
    [
        ("0001-01-01T00:00:00Z", "queued"),
        ("2020-02-02T02:02:02+02:00", "queued"),
        ("9999-12-31T23:59:59.999999Z", "scheduled"),
    ],
)
async def test_any_time_is_a_time_to_run(api: httpx.AsyncClient, run_at: str, state: str) -> None:
    answer = await submit(api, run_at=run_at)
    assert (answer.status_code, answer.json()["state"]) == (202, state)
    assert (await api.get(answer.headers["Location"])).status_code == 200


async def test_a_replay_is_the_first_answer_byte_for_byte(
    api: httpx.AsyncClient, register: Any, jobs: Jobs
) -> None:
    await register("resize", queue="media", max_attempts=7, timeout_seconds=12.5)
    body: dict[str, Any] = {
        "type": "resize",
        "payload": {"big": 10**30, "f": 1.0, "e": "😀"},
        "delay_seconds": 90.25,
        "ttl_seconds": 100,
    }
    first = await submit(api, "k", **body)
    job_id = first.json()["id"]
    await api.patch(f"{JOBS}/{job_id}", json={"priority": "low", "run_at": None})
    await jobs.claim(UUID(job_id), job_types=["resize"])
    await register("resize", queue="other", max_attempts=1, timeout_seconds=1.0)

    again = await submit(api, "k", **body)

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_a_replay_outlives_what_would_refuse_it_now(
    api: httpx.AsyncClient, register: Any, connection: asyncpg.Connection
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    body = {"payload": {"n": 1}, "expires_at": soon}
    first = await submit(api, "k", **body)
    await eventually(lambda: _is_past(soon))
    await register("echo", schema={"type": "object", "required": ["m"]})

    again = await submit(api, "k", **body)
    await connection.execute("DELETE FROM job_types")
    unknown = await submit(api, "k", **body)

    assert (again.status_code, unknown.status_code) == (202, 202)
    assert again.content == unknown.content == first.content
    assert (await submit(api, "fresh", **body)).status_code == 422


async def _is_past(moment: str) -> bool:
    return datetime.now(UTC) > datetime.fromisoformat(moment)


@pytest.mark.parametrize("same", [{"priority": "medium"}, {"payload": {}}, {"delay_seconds": None}])
async def test_what_is_said_or_left_out_is_the_same_request(
    api: httpx.AsyncClient, same: dict[str, Any]
) -> None:
    first = await submit(api, "k")
    again = await submit(api, '"k"', **same)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


@pytest.mark.parametrize(
    "other", [{"payload": {"n": 1}}, {"priority": "low"}, {"delay_seconds": 1}, {"tags": ["x"]}]
)
async def test_a_key_is_not_used_for_two_requests(
    api: httpx.AsyncClient, other: dict[str, Any]
) -> None:
    await submit(api, "k")
    answer = await submit(api, "k", **other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("body", [{"payload": {"n": 1}}, {"unique_key": "u"}])
async def test_fifty_at_once_with_one_key_are_one_job(
    api: httpx.AsyncClient, connection: asyncpg.Connection, body: dict[str, Any]
) -> None:
    answers = await asyncio.gather(*(submit(api, "k", **body) for _ in range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None] + ["true"] * 49
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_fifty_at_once_with_one_unique_key_are_one_job(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(submit(api, unique_key="u") for _ in range(50)))

    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [202]
    assert {answer.json()["deduplicated"] for answer in answers if answer.status_code == 200} == {
        True
    }
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_a_twin_that_was_deleted_since_is_not_made_up(api: httpx.AsyncClient) -> None:
    first = (await submit(api, unique_key="u")).json()["id"]
    assert (await submit(api, "k", unique_key="u", tags=["mine"])).status_code == 200
    await api.post(f"{JOBS}/{first}/cancel")
    assert (await api.delete(f"{JOBS}/{first}")).status_code == 204

    replayed = await submit(api, "k", unique_key="u", tags=["mine"])

    assert (replayed.status_code, replayed.json()["code"]) == (404, "job_not_found")


async def test_many_at_once_are_all_committed(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(submit(api, payload={"n": n}) for n in range(300)))

    assert {answer.status_code for answer in answers} == {202}
    told = {(answer.json()["id"], answer.json()["payload"]["n"]) for answer in answers}
    rows = await connection.fetch("SELECT id::text, (payload ->> 'n')::int AS n FROM jobs")
    assert told == {(row["id"], row["n"]) for row in rows}
    assert len(told) == 300


async def test_a_live_unique_key_gives_the_live_job(api: httpx.AsyncClient, jobs: Jobs) -> None:
    first = (await submit(api, unique_key="u", payload={"n": 1})).json()
    await jobs.claim(UUID(first["id"]))

    twin = await submit(api, "k", unique_key="u", payload={"n": 2})
    replayed = await submit(api, "k", unique_key="u", payload={"n": 2})

    assert (twin.status_code, twin.json()["id"]) == (200, first["id"])
    assert twin.json()["deduplicated"] is True
    assert (twin.json()["state"], twin.json()["payload"]) == ("running", {"n": 1})
    assert (replayed.status_code, replayed.json()["id"]) == (200, first["id"])
    assert replayed.headers["Idempotent-Replayed"] == "true"


async def test_a_job_waits_for_its_parents(api: httpx.AsyncClient) -> None:
    parent = (await submit(api)).json()["id"]
    child = await submit(api, depends_on=[parent])
    orphan = await submit(api, depends_on=[parent, str(uuid4())])

    assert (child.status_code, child.json()["state"]) == (202, "blocked")
    assert orphan.status_code == 422
    assert [error["pointer"] for error in orphan.json()["errors"]] == ["/depends_on/1"]


async def test_an_unknown_type_is_refused_until_it_is_registered(
    api: httpx.AsyncClient, register: Any
) -> None:
    refused = await submit(api, type="later")
    await register("later")
    accepted = await submit(api, type="later")

    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_job_type")
    assert refused.json()["errors"][0]["pointer"] == "/type"
    assert accepted.status_code == 202


SCHEMA = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "pattern": "^(a+)+$"},
        "width": {"type": "integer", "minimum": 1},
        "a/b~c": {"type": "array", "items": {"type": "string"}},
        "set": {"type": "array", "uniqueItems": True},
    },
    "required": ["image"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("payload", "pointers"),
    [
        ({"image": "a", "width": "wide"}, ["/payload/width"]),
        ({"width": 0}, ["/payload/image", "/payload/width"]),
        ({"image": "a", "a/b~c": ["x", 1]}, ["/payload/a~1b~0c/1"]),
        ({"image": "a", "colour": 1, "size": 2}, ["/payload/colour", "/payload/size"]),
        ({"image": "a" * 100_000 + "b"}, ["/payload/image"]),
        ({"image": "a", "width": -(10**4000)}, ["/payload/width"]),
    ],
)
async def test_a_payload_must_fit_its_schema(
    api: httpx.AsyncClient, register: Any, payload: dict[str, Any], pointers: list[str]
) -> None:
    await register("thumbnail", schema=SCHEMA)
    answer = await submit(api, type="thumbnail", payload=payload)
    assert answer.status_code == 422
    assert sorted(error["pointer"] for error in answer.json()["errors"]) == pointers
    assert len(answer.content) < 10_000


async def test_a_hostile_payload_does_not_hold_the_process(
    api: httpx.AsyncClient, register: Any
) -> None:
    await register("thumbnail", schema=SCHEMA)
    members = [n if n % 2 else str(n) for n in range(25_000)]
    async with asyncio.timeout(5):
        answer = await submit(api, type="thumbnail", payload={"image": "a", "set": members})
    assert answer.status_code == 202


async def test_a_new_schema_holds_at_once_where_the_old_one_refused(
    api: httpx.AsyncClient, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.job_types.RECHECK_SECONDS", 0.0)
    await register("thumbnail", schema=SCHEMA)
    assert (await submit(api, type="thumbnail", payload={"new": 1})).status_code == 422
    await register("thumbnail", schema={"type": "object", "required": ["new"]})
    assert (await submit(api, type="thumbnail", payload={"new": 1})).status_code == 202


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"type": "objekt"},
        {"pattern": "("},
        {"$ref": "#/$defs/nowhere"},
    ],
)
async def test_a_schema_that_is_no_use_refuses_nothing(
    api: httpx.AsyncClient, register: Any, schema: dict[str, Any]
) -> None:
    await register("odd", schema=schema)
    assert (await submit(api, type="odd", payload={"n": 1})).status_code == 202


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
async def test_a_schema_that_refers_to_itself_ends(
    api: httpx.AsyncClient, register: Any, schema: dict[str, Any]
) -> None:
    await register("odd", schema=schema)
    assert (await submit(api, type="odd", payload={"n": 1})).status_code == 202


def _in(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": _in(hours=1), "delay_seconds": 7200}, "/expires_at"),
        ({"expires_at": _in(hours=1), "run_at": _in(hours=2)}, "/expires_at"),
        ({"ttl_seconds": 60, "delay_seconds": 60}, "/ttl_seconds"),
        ({"ttl_seconds": 60, "run_at": _in(hours=2)}, "/ttl_seconds"),
        ({"ttl_seconds": 60, "run_at": "9999-12-31T23:59:59Z"}, "/ttl_seconds"),
    ],
)
async def test_a_job_that_would_expire_before_it_runs_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    answer = await submit(api, **body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("body", [{}, {"unique_key": "u"}])
async def test_a_commit_that_takes_too_long_is_a_503_and_happens_once(
    api: httpx.AsyncClient, connection: asyncpg.Connection, monkeypatch: Any, body: dict[str, Any]
) -> None:
    await submit(api)
    async with connection.transaction():
        await connection.execute("LOCK TABLE jobs IN SHARE MODE")
        monkeypatch.setattr("taskflow_api.submissions.ANSWER_SECONDS", 0.2)
        late = await submit(api, "k", **body)
    monkeypatch.undo()
    again = await submit(api, "k", **body)

    assert (late.status_code, late.headers["Retry-After"]) == (503, "2")
    # What was being written when the caller gave up is committed, and found again by its key.
    assert again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 2


async def test_a_service_that_stops_takes_no_more(api: httpx.AsyncClient, app: FastAPI) -> None:
    await app.state.resources.submissions.close()
    answer = await submit(api)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")


async def test_what_the_schema_marks_secret_comes_in_and_is_never_shown(
    api: httpx.AsyncClient, jobs: Jobs, register: Callable[..., Awaitable[None]]
) -> None:
    secret = {"type": "string", "writeOnly": True, "format": "password"}
    await register("mail", schema={"properties": {"password": secret}})
    payload = {"to": "ada", "password": "canary-1"}
    shown = {"to": "ada", "password": REDACTED}

    answers = [
        await submit(api, "once", type="mail", payload=payload, unique_key="one"),
        await submit(api, "once", type="mail", payload=payload, unique_key="one"),
        await submit(api, type="echo", payload={}, unique_key="one"),
    ]
    address = answers[0].headers["Location"]
    answers += [
        await api.get(address),
        await api.patch(address, json={"payload": payload | {"password": "canary-2"}}),
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 200, 200, 200]
    assert all(answer.json()["payload"] == shown for answer in answers)
    assert [job["payload"] for job in (await api.get(JOBS)).json()["items"]] == [shown]
    row = await jobs.row(UUID(answers[0].json()["id"]))
    assert json.loads(row["payload"]) == {"to": "ada", "password": "canary-2"}

    # Who writes back what was read would lose the secret.
    for refused in (
        await api.patch(address, json={"payload": shown}),
        await submit(api, type="mail", payload=shown),
    ):
        assert refused.status_code == 422
        assert [error["pointer"] for error in refused.json()["errors"]] == ["/payload/password"]


async def test_submissions_have_steady_plans(app: FastAPI, api: httpx.AsyncClient) -> None:
    assert (await submit(api)).status_code == 202
    async with app.state.resources.submissions._intake.connection([TENANT]) as session:
        assert await session.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
