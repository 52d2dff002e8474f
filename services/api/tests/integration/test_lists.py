"""Lists by filter and cursor, counts, workers and job types."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow.jobs.states import JobState
from taskflow.jobs.worker_state import WorkerState
from taskflow.jobs.workers import WorkerRegistration, register_worker, set_worker_state
from taskflow_testing.histories import all_kinds
from taskflow_testing.jobs import Jobs

JOBS = "/api/v1/jobs"


async def created(api: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await api.post(JOBS, json={"type": "echo"} | body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def listed(api: httpx.AsyncClient, query: str = "") -> list[str]:
    answer = await api.get(f"{JOBS}?{query}")
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["items"]]


async def walk(api: httpx.AsyncClient, query: str) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"{JOBS}?{query}{cursor}")).json()
        found += [job["id"] for job in page["items"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def test_an_empty_list(api: httpx.AsyncClient) -> None:
    answer = await api.get(JOBS)
    assert answer.json() == {"items": [], "next_cursor": None, "has_more": False}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_hold_every_job_once_newest_first(api: httpx.AsyncClient, limit: int) -> None:
    # Committed together, many have the same time: the id decides between them.
    answers = await asyncio.gather(*(created(api, payload={"n": n}) for n in range(7)))
    newest_first = sorted(answers, key=lambda job: (job["created_at"], job["id"]), reverse=True)

    assert await walk(api, f"limit={limit}") == [job["id"] for job in newest_first]


async def test_a_page_shows_the_jobs_as_they_are_read(api: httpx.AsyncClient) -> None:
    job = await created(api, payload={"n": 1}, tags=["a"], name="n")
    assert (await api.get(JOBS)).json()["items"] == [job]


async def test_jobs_that_arrive_shift_no_page(api: httpx.AsyncClient) -> None:
    old = [(await created(api))["id"] for _ in range(6)]
    page = (await api.get(f"{JOBS}?limit=2")).json()
    found = [job["id"] for job in page["items"]]
    while page["has_more"]:
        await created(api)
        page = (await api.get(f"{JOBS}?limit=2&cursor={page['next_cursor']}")).json()
        found += [job["id"] for job in page["items"]]
    assert found == old[::-1]


async def test_filters(api: httpx.AsyncClient, register: Any, jobs: Jobs) -> None:
    await register("other")
    a = await created(api, tags=["x", "y"], priority="high")
    b = await created(api, tags=["x"], queue="media", delay_seconds=60)
    c = await created(api, type="other", priority="low")
    await jobs.claim(UUID(a["id"]))

    expected = {
        "": "cba",
        "state=running": "a",
        "state=running&state=scheduled": "ba",
        "state=failed": "",
        "type=other": "c",
        "type=other&type=echo": "cba",
        "type=unheard-of": "",
        "queue=media": "b",
        "priority=high&priority=low": "ca",
        "tag=x": "ba",
        "tag=x&tag=y": "a",
        "tag=x&state=scheduled&queue=media&priority=medium&type=echo": "b",
        f"created_after={b['created_at']}": "cb",
        f"created_before={b['created_at']}": "a",
        f"created_after={a['created_at']}&created_before={c['created_at']}": "ba",
        "created_after=9999-12-31T23:59:59Z": "",
        "created_before=0001-01-01T00:00:00Z": "",
    }
    names = {a["id"]: "a", b["id"]: "b", c["id"]: "c"}
    found = {query: "".join(names[id_] for id_ in await listed(api, query)) for query in expected}
    assert found == expected


async def test_a_plus_sign_that_was_not_escaped_is_understood(api: httpx.AsyncClient) -> None:
    job = await created(api)
    at = datetime.fromisoformat(job["created_at"]).astimezone() + timedelta(seconds=1)
    local = at.isoformat()
    assert await listed(api, f"created_before={local}") == [job["id"]]
    assert await listed(api, f"created_before={quote(local)}") == [job["id"]]


async def test_a_cursor_fits_its_own_list_alone(api: httpx.AsyncClient) -> None:
    for n in range(3):
        await created(api, tags=["a", "b"], priority="high" if n else "low")
    page = (await api.get(f"{JOBS}?limit=1&tag=a&tag=b")).json()
    cursor = page["next_cursor"]

    # The order of filters and the size of pages make no other list.
    assert len(await listed(api, f"limit=50&tag=b&tag=a&cursor={cursor}")) == 2
    for query in ("", "tag=a", "tag=a&tag=b&state=queued", "tag=a&tag=b&priority=high"):
        answer = await api.get(f"{JOBS}?{query}&cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")
        assert answer.json()["errors"][0]["pointer"] == "/query/cursor"


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cursor=st.text(max_size=80))
async def test_no_cursor_at_all_makes_a_500(api: httpx.AsyncClient, cursor: str) -> None:
    encoded = quote(cursor.encode("utf-8", "surrogatepass"))
    answer = await api.get(f"{JOBS}?cursor={encoded}")
    assert answer.status_code == 422


async def test_stats_count_by_state_queue_and_type(
    api: httpx.AsyncClient, register: Any, jobs: Jobs
) -> None:
    await register("other")
    first = await created(api)
    await created(api, queue="media", delay_seconds=60)
    last = await created(api, type="other")
    await jobs.claim(UUID(first["id"]))

    plain = (await api.get(f"{JOBS}/stats")).json()
    both = (await api.get(f"{JOBS}/stats?by=queue&by=type")).json()
    window = (await api.get(f"{JOBS}/stats?created_before={last['created_at']}")).json()

    none = dict.fromkeys(["blocked", "completed", "failed", "cancelled", "expired", "retrying"], 0)
    counts = none | {"running": 1, "scheduled": 1, "queued": 1}
    assert plain == {"total": 3, "by_state": counts}
    assert both["by_state"] == counts
    assert both["by_queue"] == {
        "default": {"running": 1, "queued": 1},
        "media": {"scheduled": 1},
    }
    assert both["by_type"] == {"echo": {"running": 1, "scheduled": 1}, "other": {"queued": 1}}
    assert window["total"] == 2


async def test_stats_are_the_same_counted_or_read(api: httpx.AsyncClient, jobs: Jobs) -> None:
    empty = (await api.get(f"{JOBS}/stats")).json()
    await all_kinds(jobs)
    await jobs.submit(tenant_id=uuid4())

    counted = (await api.get(f"{JOBS}/stats")).json()
    read = (await api.get(f"{JOBS}/stats?created_after=2000-01-01T00:00:00Z")).json()

    assert empty == {"total": 0, "by_state": dict.fromkeys(JobState, 0)}
    assert counted == read
    assert min(counted["by_state"].values()) > 0, counted


async def test_workers_and_what_they_run(
    api: httpx.AsyncClient, jobs: Jobs, connection: asyncpg.Connection
) -> None:
    for worker_id in (jobs.worker_id, gone := uuid4()):
        await register_worker(
            connection,
            WorkerRegistration(worker_id, "host", 7, "1.0", ["default"], ["echo"], 10),
        )
    await set_worker_state(connection, gone, WorkerState.STOPPED)
    job = await created(api)
    await jobs.claim(UUID(job["id"]))
    theirs = await jobs.submit(tenant_id=uuid4())
    await jobs.claim(theirs)

    workers = {
        worker["id"]: worker for worker in (await api.get("/api/v1/workers")).json()["items"]
    }

    running, stopped = workers[str(jobs.worker_id)], workers[str(gone)]
    assert (running["alive"], running["state"], running["running"]) == (
        True,
        "running",
        [job["id"]],
    )
    assert (stopped["alive"], stopped["state"], stopped["running"]) == (False, "stopped", [])

    await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '31 seconds'")
    items = (await api.get("/api/v1/workers")).json()["items"]
    assert [worker["alive"] for worker in items] == [False, False]


async def test_job_types_and_their_schemas(
    api: httpx.AsyncClient, register: Any, connection: asyncpg.Connection
) -> None:
    schema = {"type": "object", "properties": {"image": {"type": "string"}}}
    await register("thumbnail", schema=schema, queue="media", description="Makes it small.")
    await register_worker(
        connection, WorkerRegistration(uuid4(), "host", 7, "1", ["media"], ["thumbnail"], 1)
    )

    items = (await api.get("/api/v1/job-types")).json()["items"]
    own = await api.get("/api/v1/job-types/thumbnail/schema")
    none = await api.get("/api/v1/job-types/unheard-of/schema")
    odd = await api.get("/api/v1/job-types/a%00b/schema")

    assert [(item["name"], item["workers"]) for item in items] == [("echo", 0), ("thumbnail", 1)]
    assert items[1]["payload_schema"] == schema
    assert (own.json(), own.headers["Content-Type"]) == (schema, "application/schema+json")
    assert (none.status_code, none.json()["code"]) == (404, "job_type_not_found")
    assert odd.status_code == 422
