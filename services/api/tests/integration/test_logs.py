"""GET /api/v1/logs/{id}: forms, attempts, tails and ranges by HTTP."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.log_lines import render_json
from taskflow.object_store import ObjectStore
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.object_store import TestBucket

AT = datetime(2026, 11, 22, 2, 2, 2, tzinfo=UTC)


def lines(attempt: int, *messages: str) -> bytes:
    return b"".join(
        render_json(AT, level="info", logger="job", attempt=attempt, message=message, fields={})
        for message in messages
    )


@pytest.fixture
async def store(s3: TestBucket) -> AsyncIterator[ObjectStore]:
    async with open_store(s3) as store:
        yield store


@pytest.fixture
async def log_url(jobs: Jobs, store: ObjectStore, connection: asyncpg.Connection) -> str:
    """The log of a job with two attempts, in one object that also holds lines of another job."""
    job_id = (await jobs.start()).attempt.job_id
    await connection.execute("UPDATE jobs SET attempt = 2 WHERE id = $1", job_id)
    other, first, second = lines(1, "other"), lines(1, "one", "two"), lines(2, "three")
    key = f"logs/{TENANT}/2026-11-22/{job_id}.jsonl"
    await store.put(key, other + first + second)
    at = len(other), len(other) + len(first)
    await insert_chunks(
        connection,
        [
            LogChunk(TENANT, job_id, 1, StoredLogRange(key, at[0], len(first)), 2),
            LogChunk(TENANT, job_id, 2, StoredLogRange(key, at[1], len(second)), 1),
        ],
    )
    return f"/api/v1/logs/{job_id}"


async def test_a_log_is_text_unless_asked_otherwise(api: httpx.AsyncClient, log_url: str) -> None:
    answer = await api.get(log_url)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Vary"] == "Accept"
    assert [word for word in answer.text.split() if word in {"one", "two", "three", "other"}] == [
        "one",
        "two",
        "three",
    ]


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/x-ndjson", True),
        ("application/jsonl", True),
        ("APPLICATION/X-NDJSON", True),
        ("text/plain;q=0.5, application/x-ndjson", True),
        ("text/html, application/*;q=0.3", True),
        ("text/plain, application/x-ndjson;q=0.9", False),
        ("application/x-ndjson;q=0, */*", False),
        ("*/*", False),
        ("text/html,*/*;q=0.1", False),
        ("", False),
    ],
)
async def test_the_form_is_chosen_by_accept(
    api: httpx.AsyncClient, log_url: str, accept: str, is_json: bool
) -> None:
    answer = await api.get(log_url, headers={"Accept": accept})
    assert answer.status_code == 200
    if is_json:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        records = [json.loads(line) for line in answer.text.splitlines()]
        assert [record["message"] for record in records] == ["one", "two", "three"]
    else:
        assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/plain;q=0"])
async def test_no_other_form_is_offered(api: httpx.AsyncClient, log_url: str, accept: str) -> None:
    answer = await api.get(log_url, headers={"Accept": accept})
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        ("attempt=1", ["one", "two"]),
        ("attempt=2", ["three"]),
        ("tail=0", []),
        ("tail=1", ["three"]),
        ("tail=2", ["two", "three"]),
        ("tail=100000", ["one", "two", "three"]),
        ("attempt=1&tail=1", ["two"]),
    ],
)
async def test_a_part_of_a_log(
    api: httpx.AsyncClient, log_url: str, query: str, messages: list[str]
) -> None:
    answer = await api.get(f"{log_url}?{query}", headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line)["message"] for line in answer.text.splitlines()] == messages


async def test_a_range_of_a_log(api: httpx.AsyncClient, log_url: str) -> None:
    for accept in ("application/x-ndjson", "text/plain"):
        whole = (await api.get(log_url, headers={"Accept": accept})).content
        answer = await api.get(log_url, headers={"Accept": accept, "Range": "bytes=10-19"})
        assert (answer.status_code, answer.content) == (206, whole[10:20])
        assert answer.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
        beyond = await api.get(log_url, headers={"Accept": accept, "Range": "bytes=99999-"})
        assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")
        assert beyond.headers["Content-Range"] == f"bytes */{len(whole)}"


async def test_a_log_without_lines_is_empty(api: httpx.AsyncClient, jobs: Jobs) -> None:
    answer = await api.get(f"/api/v1/logs/{await jobs.submit()}")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_an_attempt_that_never_was_is_a_404(api: httpx.AsyncClient, log_url: str) -> None:
    answer = await api.get(f"{log_url}?attempt=3")
    assert (answer.status_code, answer.json()["code"]) == (404, "attempt_not_found")


@pytest.mark.parametrize(
    "query", ["attempt=0", "attempt=x", "attempt=2147483648", "tail=-1", "tail=x", "grep=x"]
)
async def test_odd_parameters_are_a_422(api: httpx.AsyncClient, log_url: str, query: str) -> None:
    assert (await api.get(f"{log_url}?{query}")).status_code == 422


async def test_another_tenants_log_is_not_there(api: httpx.AsyncClient, jobs: Jobs) -> None:
    theirs = await jobs.submit(tenant_id=uuid4())
    answer = await api.get(f"/api/v1/logs/{theirs}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert UUID(answer.json()["request_id"])
