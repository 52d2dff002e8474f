"""One job: read, waited for, changed, deleted, cancelled, retried, its history."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from taskflow.artifacts import ArtifactStore
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.erasures import take_due_erasures
from taskflow.jobs.finishing import finish
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.jobs.outcomes import (
    JobError,
    Outcome,
    OutcomeKind,
    completed,
    completed_in_object,
)
from taskflow.object_store import ObjectStore
from taskflow_api import waiting
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.tcp_proxy import TcpProxy
from taskflow_testing.waiting import eventually

JOBS = "/api/v1/jobs"
FAILED = Outcome(OutcomeKind.FAILED, error=JobError("ValueError", "no", retryable=False))

End = Callable[[Jobs, UUID], Awaitable[None]]


async def end(jobs: Jobs, claimed: ClaimedJob, outcome: Outcome) -> None:
    await finish(jobs.connection, [(claimed.attempt, outcome)])


async def start_from(jobs: Jobs, job_id: str) -> ClaimedJob:
    (claimed,) = await jobs.claim(UUID(job_id))
    assert isinstance(claimed, ClaimedJob)
    return claimed


async def created(api: httpx.AsyncClient, **body: Any) -> str:
    answer = await api.post(JOBS, json={"type": "echo"} | body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def complete(jobs: Jobs, job_id: UUID) -> None:
    await end(jobs, await start_from(jobs, str(job_id)), completed('{"ok": 1}'))


async def fail(jobs: Jobs, job_id: UUID) -> None:
    await end(jobs, await start_from(jobs, str(job_id)), FAILED)


async def run(jobs: Jobs, job_id: UUID) -> None:
    await start_from(jobs, str(job_id))


async def expire(jobs: Jobs, job_id: UUID) -> None:
    await jobs.connection.execute("UPDATE jobs SET state = 'expired' WHERE id = $1", job_id)


# --- read


async def test_a_job_tells_its_state_result_and_error(api: httpx.AsyncClient, jobs: Jobs) -> None:
    well, badly = await created(api), await created(api)
    await end(jobs, await start_from(jobs, well), completed('{"text": "hi", "n": [1]}'))
    await end(jobs, await start_from(jobs, badly), FAILED)

    job = (await api.get(f"{JOBS}/{well}")).json()
    assert (job["state"], job["result"], job["attempt"]) == (
        "completed",
        {"text": "hi", "n": [1]},
        1,
    )
    assert job["started_at"] <= job["finished_at"]
    job = (await api.get(f"{JOBS}/{badly}")).json()
    assert (job["state"], job["result"]) == ("failed", None)
    assert job["error"] == {"type": "ValueError", "message": "no", "retryable": False}


async def test_another_tenants_job_is_not_there(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await jobs.submit(tenant_id=uuid4())
    theirs = await api.get(f"{JOBS}/{job_id}")
    nobodys = await api.get(f"{JOBS}/{uuid4()}")
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json()["code"] == nobodys.json()["code"]
    assert (await api.get(JOBS)).json()["items"] == []
    assert (await api.get(f"{JOBS}/stats")).json()["total"] == 0


async def test_a_job_that_is_as_it_was_is_a_304(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api)
    first = await api.get(f"{JOBS}/{job_id}")
    tag = first.headers["ETag"]

    for sent in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        same = await api.get(f"{JOBS}/{job_id}", headers={"If-None-Match": sent})
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    for sent in ('"x"', "x", tag.strip('"'), ""):
        other = await api.get(f"{JOBS}/{job_id}", headers={"If-None-Match": sent})
        assert (other.status_code, other.headers["ETag"]) == (200, tag)
    await start_from(jobs, job_id)
    changed = await api.get(f"{JOBS}/{job_id}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


@pytest.fixture
async def store(s3: TestBucket) -> Any:
    async with open_store(s3) as store:
        yield store


async def test_a_large_result_is_read_from_the_object_store(
    api: httpx.AsyncClient, jobs: Jobs, store: ObjectStore
) -> None:
    job_id = await created(api)
    claimed = await start_from(jobs, job_id)
    result = {"rows": ["ä" * 100] * 5000}
    key = await ArtifactStore(store).put(
        claimed, "result-1.json", json.dumps(result).encode(), "application/json"
    )
    await end(jobs, claimed, completed_in_object(key, 100_000))

    job = await api.get(f"{JOBS}/{job_id}")
    assert job.json()["result"] == result
    assert job.json()["state"] == "completed"
    same = await api.get(f"{JOBS}/{job_id}", headers={"If-None-Match": job.headers["ETag"]})
    assert same.status_code == 304
    (listed,) = (await api.get(JOBS)).json()["items"]
    assert listed == job.json() | {"result": None}


async def test_a_result_whose_object_is_gone_is_none(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api)
    claimed = await start_from(jobs, job_id)
    gone = f"artifacts/{TENANT}/2026-11-22/{uuid4()}/1/result-1.json"
    await end(jobs, claimed, completed_in_object(gone, 2))
    job = (await api.get(f"{JOBS}/{job_id}")).json()
    assert (job["state"], job["result"]) == ("completed", None)


async def test_a_large_result_in_a_slow_object_store_is_a_503_in_time(
    start: Any, s3: TestBucket, jobs: Jobs, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_api.storage_patience.STORAGE_SECONDS", 0.2)
    async with TcpProxy(s3.endpoint) as proxy, start(s3_endpoint=proxy.url) as api:
        job_id = await created(api)
        claimed = await start_from(jobs, job_id)
        key = await ArtifactStore(store).put(claimed, "result-1.json", b"{}", "application/json")
        await end(jobs, claimed, completed_in_object(key, 2))
        proxy.answer_delay_seconds = 1.0
        late = await api.get(f"{JOBS}/{job_id}")
        assert (late.status_code, late.json()["code"]) == (503, "service_unavailable")
        assert int(late.headers["Retry-After"]) > 0
        proxy.answer_delay_seconds = 0.0


# --- wait


async def test_the_answer_can_wait_for_the_end(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api)
    claimed = await start_from(jobs, job_id)
    waits = [
        asyncio.create_task(api.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=20"}))
        for _ in range(20)
    ]
    await asyncio.wait(waits, timeout=0.3)
    assert not any(wait.done() for wait in waits)

    await end(jobs, claimed, completed("1"))

    for answer in await asyncio.gather(*waits):
        assert answer.json()["state"] == "completed"
        assert answer.headers["Preference-Applied"] == "wait"


async def test_a_wait_ends_when_its_time_is_over(api: httpx.AsyncClient) -> None:
    job_id = await created(api)
    began = asyncio.get_running_loop().time()
    answer = await api.get(f"{JOBS}/{job_id}", headers={"Prefer": "respond-async, wait=1"})
    assert answer.json()["state"] == "queued"
    assert 0.9 < asyncio.get_running_loop().time() - began < 5


async def test_who_has_enough_waits_is_answered_at_once(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITS_OF_TENANT", 0)
    job_id = await created(api)
    async with asyncio.timeout(5):
        answer = await api.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert "Preference-Applied" not in answer.headers


async def test_a_wait_for_a_job_that_has_ended_is_none(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api)
    await complete(jobs, UUID(job_id))
    async with asyncio.timeout(5):
        answer = await api.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=30"})
    assert answer.headers["Preference-Applied"] == "wait"


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "waits=9", ""]
)
async def test_a_malformed_preference_is_ignored(api: httpx.AsyncClient, prefer: str) -> None:
    job_id = await created(api)
    async with asyncio.timeout(0.9):
        answer = await api.get(f"{JOBS}/{job_id}", headers={"Prefer": prefer})
    assert answer.status_code == 200
    assert "Preference-Applied" not in answer.headers


async def test_a_wait_that_is_deleted_under_is_a_404(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api)
    wait = asyncio.create_task(api.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=20"}))
    await asyncio.wait([wait], timeout=0.2)
    await jobs.connection.execute("DELETE FROM jobs")
    assert (await wait).status_code == 404


async def test_waits_hold_no_connection(
    api: httpx.AsyncClient, app: FastAPI, connection: asyncpg.Connection
) -> None:
    job_id = await created(api)
    waits = [
        asyncio.create_task(api.get(f"{JOBS}/{job_id}", headers={"Prefer": "wait=20"}))
        for _ in range(50)
    ]
    await asyncio.wait(waits, timeout=0.3)
    # The pools hold five each.
    answers = await asyncio.gather(*(api.get(f"{JOBS}/{job_id}") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}

    app.state.resources.waiters.close()
    ended = await asyncio.gather(*waits)
    assert {answer.json()["state"] for answer in ended} == {"queued"}


# --- change


async def test_a_waiting_job_can_be_changed(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api, payload={"n": 1}, tags=["a"])
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    answer = await api.patch(
        f"{JOBS}/{job_id}",
        json={
            "priority": "urgent",
            "run_at": later,
            "payload": {"n": 2},
            "tags": ["b"],
            "metadata": {"m": 1},
            "expires_at": "9999-12-31T23:59:59Z",
        },
    )

    job = answer.json()
    assert (answer.status_code, job["state"], job["priority"]) == (200, "scheduled", "urgent")
    assert (job["payload"], job["tags"], job["metadata"]) == ({"n": 2}, ["b"], {"m": 1})
    read = await api.get(f"{JOBS}/{job_id}")
    assert read.json() == job
    assert read.headers["ETag"] == answer.headers["ETag"]
    answer = await api.patch(f"{JOBS}/{job_id}", json={"run_at": None})
    assert answer.json()["state"] == "queued"
    assert [event for event, *_ in await jobs.history(UUID(job_id))] == [
        "submit",
        "reschedule",
        "reschedule",
    ]


async def test_a_change_can_be_bound_to_a_version(api: httpx.AsyncClient) -> None:
    job_id = await created(api)
    url = f"{JOBS}/{job_id}"
    tag = (await api.get(url)).headers["ETag"]

    first = await api.patch(url, json={"tags": ["a"]}, headers={"If-Match": f'"other", {tag}'})
    stale = await api.patch(url, json={"tags": ["b"]}, headers={"If-Match": tag})
    any_version = await api.patch(url, json={"tags": ["c"]}, headers={"If-Match": "*"})
    weak = any_version.headers["ETag"]
    weakly = await api.patch(url, json={"tags": ["d"]}, headers={"If-Match": f"W/{weak}"})

    assert first.status_code == 200
    assert (stale.status_code, stale.json()["code"]) == (412, "version_mismatch")
    assert any_version.status_code == 200
    assert weakly.status_code == 412
    assert (await api.get(url)).json()["tags"] == ["c"]


@pytest.mark.parametrize("sent", ["", "x", '"x', 'W/"x" "y"', '"a",', '*, "a"'])
async def test_a_malformed_if_match_is_a_400(api: httpx.AsyncClient, sent: str) -> None:
    job_id = await created(api)
    answer = await api.patch(f"{JOBS}/{job_id}", json={"tags": []}, headers={"If-Match": sent})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_header")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({}, ""),
        ({"priority": None}, ""),
        ({"queue": "x"}, "/queue"),
        ({"state": "completed"}, "/state"),
        ({"payload": {"n": "x"}}, "/payload/n"),
        ({"payload": {"n": "\x00"}}, "/payload/n"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        (
            {"run_at": "2999-01-01T00:00:00Z", "expires_at": "2998-01-01T00:00:00Z"},
            "/expires_at",
        ),
        ({"tags": [""]}, "/tags/0"),
    ],
)
async def test_a_change_is_checked_as_a_submission_is(
    api: httpx.AsyncClient, register: Any, change: dict[str, Any], pointer: str
) -> None:
    await register("echo", schema={"properties": {"n": {"type": "integer"}}})
    job_id = await created(api)
    answer = await api.patch(f"{JOBS}/{job_id}", json=change)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("move", [run, complete, fail, expire])
async def test_a_job_that_does_not_wait_can_not_be_changed(
    api: httpx.AsyncClient, jobs: Jobs, move: End
) -> None:
    job_id = await created(api)
    await move(jobs, UUID(job_id))
    answer = await api.patch(f"{JOBS}/{job_id}", json={"tags": []})
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state_conflict")
    assert answer.json()["state"] == await jobs.state(UUID(job_id))


# --- delete


async def test_a_finished_job_is_deleted_with_what_it_left(
    api: httpx.AsyncClient, jobs: Jobs, store: ObjectStore, connection: asyncpg.Connection
) -> None:
    job_id = await created(api)
    claimed = await start_from(jobs, job_id)
    artifact = await ArtifactStore(store).put(claimed, "out.txt", b"x", "text/plain")
    log_key = f"logs/{TENANT}/2026-11-22/{job_id}.jsonl"
    await store.put(log_key, b"{}\n")
    await insert_chunks(
        connection, [LogChunk(TENANT, UUID(job_id), 1, StoredLogRange(log_key, 0, 3), 1)]
    )
    assert (await api.delete(f"{JOBS}/{job_id}")).status_code == 409
    await end(jobs, claimed, completed("1"))

    answer = await api.delete(f"{JOBS}/{job_id}")

    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/events", "/attempts"):
        assert (await api.get(f"{JOBS}/{job_id}{path}")).status_code == 404
    assert (await api.get(f"/api/v1/logs/{job_id}")).status_code == 404
    assert (await api.delete(f"{JOBS}/{job_id}")).status_code == 404
    # What lies in the object store is the scheduler's to erase.
    (erasure,) = await take_due_erasures(connection, limit=10)
    assert str(erasure.job_id) == job_id
    assert erasure.log_ranges == [StoredLogRange(log_key, 0, 3)]
    assert artifact.startswith(f"artifacts/{erasure.tenant_id}/")


# --- cancel and retry


async def test_cancelling_a_waiting_job_ends_it(api: httpx.AsyncClient) -> None:
    job_id = await created(api, delay_seconds=60)
    first = await api.post(f"{JOBS}/{job_id}/cancel")
    again = await api.post(f"{JOBS}/{job_id}/cancel")
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert (again.status_code, again.json()) == (200, first.json())


async def test_cancelling_a_running_job_asks_for_its_end(
    api: httpx.AsyncClient, jobs: Jobs
) -> None:
    job_id = await created(api)
    await run(jobs, UUID(job_id))
    for _ in range(2):
        answer = await api.post(f"{JOBS}/{job_id}/cancel")
        assert answer.status_code == 202
        assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("running", True)


@pytest.mark.parametrize("move", [complete, fail, expire])
async def test_a_job_that_has_ended_can_not_be_cancelled(
    api: httpx.AsyncClient, jobs: Jobs, move: End
) -> None:
    job_id = await created(api)
    await move(jobs, UUID(job_id))
    answer = await api.post(f"{JOBS}/{job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state_conflict")


async def cancel(jobs: Jobs, job_id: UUID) -> None:
    await jobs.connection.execute("UPDATE jobs SET state = 'cancelled' WHERE id = $1", job_id)


@pytest.mark.parametrize("move", [fail, expire, cancel])
async def test_a_job_that_ended_badly_can_be_run_again(
    api: httpx.AsyncClient, app: FastAPI, jobs: Jobs, move: End
) -> None:
    job_id = await created(api)
    await move(jobs, UUID(job_id))

    answer = await api.post(f"{JOBS}/{job_id}/retry")

    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.json()["error"] is None
    await app.state.resources.relay.wait_idle()
    assert isinstance((await jobs.claim(UUID(job_id)))[0], ClaimedJob)


async def wait(_jobs: Jobs, _job_id: UUID) -> None:
    """A job that waits."""


@pytest.mark.parametrize("move", [wait, run, complete])
async def test_a_job_that_lives_or_went_well_can_not_be_run_again(
    api: httpx.AsyncClient, jobs: Jobs, move: End
) -> None:
    job_id = await created(api)
    await move(jobs, UUID(job_id))
    assert (await api.post(f"{JOBS}/{job_id}/retry")).status_code == 409


# --- history


async def test_history_and_attempts(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = await created(api)
    await fail(jobs, UUID(job_id))
    await api.post(f"{JOBS}/{job_id}/retry")
    await run(jobs, UUID(job_id))

    events = (await api.get(f"{JOBS}/{job_id}/events")).json()["items"]
    attempts = (await api.get(f"{JOBS}/{job_id}/attempts")).json()["items"]

    assert [(event["event"], event["source"], event["target"]) for event in events] == [
        ("submit", None, "queued"),
        ("claim", "queued", "running"),
        ("fail", "running", "failed"),
        ("retry", "failed", "queued"),
        ("claim", "queued", "running"),
    ]
    assert [(attempt["number"], attempt["outcome"]) for attempt in attempts] == [
        (1, "failed"),
        (2, "running"),
    ]
    first, second = attempts
    assert first["worker_id"] == str(jobs.worker_id)
    assert first["error"]["message"] == "no"
    assert first["duration_seconds"] > 0
    assert second["finished_at"] is second["duration_seconds"] is None


async def test_an_exists_check_by_head(api: httpx.AsyncClient) -> None:
    job_id = await created(api)
    found = await api.head(f"{JOBS}/{job_id}")
    full = await api.get(f"{JOBS}/{job_id}")
    assert (found.status_code, found.content) == (200, b"")
    assert found.headers["ETag"] == full.headers["ETag"]
    assert found.headers["Content-Length"] == full.headers["Content-Length"]
    assert (await api.head(f"{JOBS}/{uuid4()}")).status_code == 404


async def test_a_running_job_seen_twice_is_listed_once(api: httpx.AsyncClient, jobs: Jobs) -> None:
    """The attempt may end between the look at the job and the look at its attempts."""
    job_id = await created(api)
    claimed = await start_from(jobs, job_id)

    async def look() -> bool:
        items = (await api.get(f"{JOBS}/{job_id}/attempts")).json()["items"]
        assert [item["number"] for item in items] == [1]
        return bool(items[0]["outcome"] == "completed")

    looking = asyncio.create_task(eventually(look, pause=0))
    await end(jobs, claimed, completed("1"))
    assert await looking
