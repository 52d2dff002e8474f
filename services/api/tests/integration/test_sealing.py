"""Payloads and results that are sealed at rest, as the API's clients and the database see them."""

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import JobError, Outcome, OutcomeKind, completed, completed_in_object
from taskflow.sealing.form import json_sealed_by
from taskflow.sealing.ring import Part, Place, SealingKeyRing
from taskflow_testing.clients import open_store
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.object_store import TestBucket

from .conftest import Register, Start

PATH = "/api/v1/jobs"
OLD = "old:" + base64.b64encode(b"o" * 32).decode()
NEW = "new:" + base64.b64encode(b"n" * 32).decode()
CANARY = "a canary"
JOB = {"type": "echo", "payload": {"text": CANARY}}


@pytest.fixture
async def sealed(start: Start) -> AsyncIterator[httpx.AsyncClient]:
    async with start(payload_keys=OLD) as api:
        yield api


async def submit(api: httpx.AsyncClient, **changes: Any) -> str:
    answer = await api.post(PATH, json=JOB | changes)
    assert answer.status_code == 202, answer.text
    assert answer.json()["payload"] == (JOB | changes)["payload"]
    return str(answer.json()["id"])


async def end(jobs: Jobs, job_id: str, outcome: Outcome) -> None:
    (claimed,) = await jobs.claim(UUID(job_id), key_ids=["old", "new"])
    await finish(jobs.connection, [(claimed.attempt, outcome)])  # type: ignore[union-attr]


def place(job_id: str, part: Part) -> Place:
    return Place(TENANT, UUID(job_id), part)


async def everything(connection: asyncpg.Connection) -> str:
    """All that the database holds of jobs, as text."""
    rows = [
        await connection.fetch(f"SELECT to_jsonb(t)::text AS row FROM {name} AS t")
        for name in ("jobs", "job_events", "job_attempts", "idempotency_keys")
    ]
    return "\n".join(row["row"] for table in rows for row in table)


async def test_a_payload_is_stored_sealed_and_shown_open(
    sealed: httpx.AsyncClient, jobs: Jobs
) -> None:
    job_id = await submit(sealed)
    assert json_sealed_by((await jobs.row(UUID(job_id)))["payload"]) == "old"
    assert CANARY not in await everything(jobs.connection)
    assert (await sealed.get(f"{PATH}/{job_id}")).json()["payload"] == {"text": CANARY}
    assert (await sealed.get(PATH)).json()["items"][0]["payload"] == {"text": CANARY}

    change = {"payload": {"text": f"{CANARY} again"}}
    assert (await sealed.patch(f"{PATH}/{job_id}", json=change)).json()["payload"] == {
        "text": f"{CANARY} again"
    }
    assert json_sealed_by((await jobs.row(UUID(job_id)))["payload"]) == "old"
    assert CANARY not in await everything(jobs.connection)


async def test_a_result_and_an_error_are_shown_open(sealed: httpx.AsyncClient, jobs: Jobs) -> None:
    ring = SealingKeyRing.of(OLD)
    done, failed = [await submit(sealed) for _ in range(2)]
    result = ring.seal_json(place(done, Part.RESULT), json.dumps([CANARY]))
    await end(jobs, done, completed(result))
    message = ring.seal_text(place(failed, Part.ERROR), CANARY)
    error = JobError("ValueError", message, retryable=False)
    await end(jobs, failed, Outcome(OutcomeKind.FAILED, error=error))
    assert CANARY not in await everything(jobs.connection)

    assert (await sealed.get(f"{PATH}/{done}")).json()["result"] == [CANARY]
    shown = {"type": "ValueError", "message": CANARY, "retryable": False}
    assert (await sealed.get(f"{PATH}/{failed}")).json()["error"] == shown
    listed = {each["id"]: each for each in (await sealed.get(PATH)).json()["items"]}
    assert (listed[done]["result"], listed[failed]["error"]) == ([CANARY], shown)
    (attempt,) = (await sealed.get(f"{PATH}/{failed}/attempts")).json()["items"]
    assert attempt["error"] == shown
    *_, event = (await sealed.get(f"{PATH}/{failed}/events")).json()["items"]
    assert event["detail"] == {"error": shown}


async def test_a_large_result_is_shown_open(
    sealed: httpx.AsyncClient, jobs: Jobs, s3: TestBucket
) -> None:
    job_id = await submit(sealed)
    row = await jobs.row(UUID(job_id))
    key = f"artifacts/{TENANT}/{row['created_at'].date()}/{job_id}/1/result-1.json"
    body = SealingKeyRing.of(OLD).seal_object(place(job_id, Part.RESULT), b'"a canary"')
    async with open_store(s3) as store:
        await store.put(key, body)
    await end(jobs, job_id, completed_in_object(key, len(body)))
    assert (await sealed.get(f"{PATH}/{job_id}")).json()["result"] == CANARY


async def test_a_request_is_replayed_before_and_after_the_keys_change(
    start: Start, connection: asyncpg.Connection
) -> None:
    headers = {"Idempotency-Key": "once"}
    ids = set()
    for keys in ("", OLD, f"{NEW},{OLD}", f"none,{NEW},{OLD}"):
        async with start(payload_keys=keys) as api:
            first = await api.post(PATH, json=JOB, headers={"Idempotency-Key": keys[:5] or "-"})
            assert first.status_code == 202
            again = await api.post(PATH, json=JOB, headers=headers)
            assert again.json()["payload"] == JOB["payload"]
            assert ("Idempotent-Replayed" in again.headers) is (keys != "")
            ids.add(again.json()["id"])
            other = JOB | {"payload": {"text": "something else"}}
            assert (await api.post(PATH, json=other, headers=headers)).status_code == 422
    assert len(ids) == 1
    async with start(payload_keys=f"{NEW},{OLD}") as api:
        again = await api.post(PATH, json=JOB, headers={"Idempotency-Key": OLD[:5]})
        assert "Idempotent-Replayed" in again.headers
    rows = await connection.fetch("SELECT key, fingerprint FROM idempotency_keys")
    # Only what was sent without keys can be guessed by who reads the table.
    by_key = {row["key"]: row["fingerprint"] for row in rows}
    assert by_key["-"] == by_key["once"] == by_key["none,"]
    assert len({by_key[name] for name in ("-", "old:b"[:5], "new:b"[:5])}) == 3


async def test_a_key_that_is_not_there_is_a_503_that_names_it_in_the_log_alone(
    sealed: httpx.AsyncClient, start: Start
) -> None:
    job_id = await submit(sealed)
    async with start(payload_keys=NEW) as api:
        for path in (f"{PATH}/{job_id}", PATH):
            with capture_logs() as lines:
                answer = await api.get(path)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "30"
            assert not re.search(r"\bold\b", answer.text)
            assert any("'old'" in line.get("error", "") for line in lines)
        # What needs no payload goes on.
        assert (await api.get(f"{PATH}/stats")).status_code == 200
        assert (await api.get(f"{PATH}/{job_id}/events")).status_code == 200
        assert (await api.post(PATH, json=JOB)).status_code == 202


async def test_a_payload_can_be_replaced_without_its_key(
    sealed: httpx.AsyncClient, start: Start, jobs: Jobs
) -> None:
    job_id = await submit(sealed)
    async with start(payload_keys=NEW) as api:
        answer = await api.patch(f"{PATH}/{job_id}", json={"payload": {"text": "new"}})
        assert answer.json()["payload"] == {"text": "new"}
    assert json_sealed_by((await jobs.row(UUID(job_id)))["payload"]) == "new"


async def test_what_was_tampered_with_is_never_shown(sealed: httpx.AsyncClient, jobs: Jobs) -> None:
    first, second = [await submit(sealed) for _ in range(2)]
    await jobs.connection.execute(
        "UPDATE jobs SET payload = (SELECT payload FROM jobs WHERE id = $1) WHERE id = $2",
        UUID(first),
        UUID(second),
    )
    answer = await sealed.get(f"{PATH}/{second}")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert CANARY not in answer.text


async def test_secrets_of_a_schema_stay_hidden(
    sealed: httpx.AsyncClient, register: Register
) -> None:
    schema = {"type": "object", "properties": {"password": {"type": "string", "writeOnly": True}}}
    await register("login", schema=schema)
    answer = await sealed.post(PATH, json={"type": "login", "payload": {"password": "hunter2"}})
    job_id = answer.json()["id"]
    shown = (await sealed.get(f"{PATH}/{job_id}")).json()["payload"]
    assert shown == {"password": "[redacted]"}


async def test_a_twin_of_a_sealed_job_is_found_and_shown(sealed: httpx.AsyncClient) -> None:
    job_id = await submit(sealed, unique_key="one")
    twin = await sealed.post(PATH, json=JOB | {"unique_key": "one", "payload": {"text": "other"}})
    assert twin.status_code == 200
    assert (twin.json()["id"], twin.json()["payload"]) == (job_id, {"text": CANARY})


async def test_a_result_that_looks_sealed_is_shown_as_it_is(
    api: httpx.AsyncClient, jobs: Jobs
) -> None:
    job_id = await submit(api)
    value_json = json.dumps("taskflow.sealed:1:mine:AAAA")
    await end(
        jobs,
        job_id,
        completed(SealingKeyRing({}).seal_json(place(job_id, Part.RESULT), value_json)),
    )
    assert (await api.get(f"{PATH}/{job_id}")).json()["result"] == json.loads(value_json)
