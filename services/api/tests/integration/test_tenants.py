"""Two tenants: on every route of the document, the one's things are not there for the other."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from taskflow.access.scopes import ALL_SCOPES, Actor, ActorKind
from taskflow_api.auth import ApiKeys, Principal
from taskflow_api.guards import OPEN_PATHS
from taskflow_api.openapi import openapi_json
from taskflow_testing.jobs import TENANT, Jobs

JOBS = "/api/v1/jobs"
OTHER = UUID("00000000-0000-7000-8000-000000000002")
OTHER_KEY = {"X-API-Key": "tf_live_of_the_other_tenant"}

OF_NOBODY = {"get_job_type_schema"}
"""Operations whose address names what belongs to no tenant."""

BODIES: Mapping[str, Any] = {"change_job": {"priority": "high"}}
"""A body for each operation that takes one and names something in its address."""


class Operation(NamedTuple):
    id: str
    method: str
    path: str
    takes_body: bool


OPERATIONS = [
    Operation(each["operationId"], method.upper(), path, "requestBody" in each)
    for path, item in json.loads(openapi_json())["paths"].items()
    for method, each in item.items()
    if path not in OPEN_PATHS
]
BY_ID = [each for each in OPERATIONS if "{" in each.path and each.id not in OF_NOBODY]
LISTS = [each for each in OPERATIONS if "{" not in each.path and each.method == "GET"]


class TwoTenants(ApiKeys):
    """The key of the settings, and one of another tenant."""

    async def find(self, key: str) -> Principal | None:
        if key == OTHER_KEY["X-API-Key"]:
            return Principal(OTHER, Actor(ActorKind.KEY, "other"), ALL_SCOPES)
        return await super().find(key)


@pytest.fixture
def two_tenants(app: FastAPI, api: httpx.AsyncClient) -> httpx.AsyncClient:
    keys = TwoTenants(api.headers["X-API-Key"])
    app.state.resources = replace(app.state.resources, api_keys=keys)
    return api


async def a_job_with_everything(jobs: Jobs, **changes: Any) -> UUID:
    """A failed job of the first tenant's, with an attempt, events and a stretch of log."""
    job_id = (await jobs.start(**changes)).attempt.job_id
    await jobs.connection.execute(
        "UPDATE jobs SET state = 'failed', finished_at = now() WHERE id = $1", job_id
    )
    await jobs.connection.execute(
        "INSERT INTO job_attempts SELECT id, 1, tenant_id, NULL, 'failed', NULL, now(), now()"
        " FROM jobs WHERE id = $1",
        job_id,
    )
    await jobs.connection.execute(
        "INSERT INTO log_chunks (job_id, attempt, tenant_id, object_key, byte_offset, byte_length,"
        " line_count) VALUES ($1, 1, $2, 'logs/x', 0, 10, 1)",
        job_id,
        TENANT,
    )
    return job_id


async def everything_of(jobs: Jobs, job_id: UUID) -> list[Any]:
    return [
        await jobs.connection.fetchval(
            f"SELECT jsonb_agg(row ORDER BY row::text)::text FROM {table} AS row"
            f" WHERE {column} = $1",
            job_id,
        )
        for table, column in (
            ("jobs", "id"),
            ("job_events", "job_id"),
            ("job_attempts", "job_id"),
            ("log_chunks", "job_id"),
            ("pending_erasures", "job_id"),
        )
    ]


async def ask(
    api: httpx.AsyncClient, operation: Operation, job_id: UUID, **headers: str
) -> httpx.Response:
    path = operation.path.replace("{job_id}", str(job_id))
    assert "{" not in path, f"say how {operation.path} is filled in"
    body = {"json": BODIES[operation.id]} if operation.takes_body else {}
    return await api.request(operation.method, path, headers=headers, **body)


def without(answer: httpx.Response, job_id: UUID) -> tuple[int, str | None, Any]:
    """An answer but for the id that was asked for and that of the request."""
    body = json.loads(answer.text.replace(str(job_id), "<id>"))
    return answer.status_code, answer.headers.get("Content-Type"), body | {"request_id": None}


@pytest.mark.parametrize("operation", BY_ID, ids=lambda operation: operation.id)
async def test_anothers_job_is_as_unknown_as_any(
    two_tenants: httpx.AsyncClient, jobs: Jobs, operation: Operation
) -> None:
    job_id, unknown = await a_job_with_everything(jobs), uuid4()
    before = await everything_of(jobs, job_id)

    theirs = await ask(two_tenants, operation, job_id, **OTHER_KEY)
    nobodys = await ask(two_tenants, operation, unknown, **OTHER_KEY)

    assert theirs.status_code == 404
    assert without(theirs, job_id) == without(nobodys, unknown)
    assert await everything_of(jobs, job_id) == before
    assert (await ask(two_tenants, operation, job_id)).status_code != 404


@pytest.mark.parametrize("operation", LISTS, ids=lambda operation: operation.id)
async def test_no_list_shows_what_is_anothers(
    two_tenants: httpx.AsyncClient, jobs: Jobs, operation: Operation
) -> None:
    ids = [await a_job_with_everything(jobs), (await jobs.start()).attempt.job_id]
    answer = await two_tenants.get(operation.path, headers=OTHER_KEY)
    assert answer.status_code == 200
    assert not [job_id for job_id in ids if str(job_id) in answer.text]


async def test_counts_and_cursors_are_a_tenants_own(
    two_tenants: httpx.AsyncClient, jobs: Jobs
) -> None:
    await jobs.submit()
    await jobs.submit()
    mine = (await two_tenants.get(JOBS, params={"limit": 1})).json()
    counts = (await two_tenants.get(f"{JOBS}/stats", headers=OTHER_KEY)).json()
    cursor = {"limit": 1, "cursor": mine["next_cursor"]}
    answer = await two_tenants.get(JOBS, params=cursor, headers=OTHER_KEY)
    assert counts["total"] == 0
    assert answer.json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("body", "headers"),
    [({}, {"Idempotency-Key": "k"}), ({"unique_key": "u"}, {}), ({"name": "x"}, {})],
    ids=["idempotency-key", "unique-key", "neither"],
)
async def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(
    two_tenants: httpx.AsyncClient, jobs: Jobs, body: dict[str, Any], headers: dict[str, str]
) -> None:
    request = {"type": "echo", "payload": {"text": "hello"}} | body
    answers = [
        await two_tenants.post(JOBS, json=request, headers=headers | key)
        for key in ({}, OTHER_KEY, {}, OTHER_KEY)
    ]
    assert [each.status_code for each in answers[:2]] == [202, 202]
    one, other, one_again, other_again = (UUID(each.json()["id"]) for each in answers)
    assert one != other
    if body != {"name": "x"}:
        assert (one, other) == (one_again, other_again)
    assert (await jobs.row(one))["tenant_id"] == TENANT
    assert (await jobs.row(other))["tenant_id"] == OTHER


async def test_nobody_waits_for_anothers_job(two_tenants: httpx.AsyncClient, jobs: Jobs) -> None:
    theirs, unknown = await jobs.submit(), uuid4()

    async def waiting_for(parent: UUID) -> httpx.Response:
        body = {"type": "echo", "depends_on": [str(parent)]}
        return await two_tenants.post(JOBS, json=body, headers=OTHER_KEY)

    refused = await waiting_for(theirs)
    assert refused.status_code == 422
    assert without(refused, theirs) == without(await waiting_for(unknown), unknown)
    assert not (await jobs.row(theirs))["has_dependents"]
