"""Two tenants: on every route of the document, the one's things are not there for the other."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from taskflow.access.scopes import Scope
from taskflow.api_key import generate
from taskflow_api.guards import OPEN_OPERATIONS, SELF_OPERATIONS
from taskflow_api.openapi import openapi_json
from taskflow_testing.api_keys import make_key
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.problems import check_problem

JOBS = "/api/v1/jobs"
OTHER = UUID("00000000-0000-7000-8000-000000000002")

OF_NOBODY = {"get_job_type_schema"}
"""Operations whose address names what belongs to no tenant."""

BODIES: Mapping[str, Any] = {
    "change_job": {"priority": "high"},
    "rename_api_key": {"name": "theirs"},
    "rotate_api_key": {},
}
"""A body for each operation that takes one and names something in its address."""


class Operation(NamedTuple):
    id: str
    method: str
    path: str
    takes_body: bool
    security: list[dict[str, list[str]]]


OPERATIONS = [
    Operation(each["operationId"], method.upper(), path, "requestBody" in each, each["security"])
    for path, item in json.loads(openapi_json())["paths"].items()
    for method, each in item.items()
    if (method.upper(), path) not in OPEN_OPERATIONS
]
BY_ID = [each for each in OPERATIONS if "{" in each.path and each.id not in OF_NOBODY]
WITH_SCOPE = [each for each in OPERATIONS if (each.method, each.path) not in SELF_OPERATIONS]
LISTS = [each for each in OPERATIONS if "{" not in each.path and each.method == "GET"]


Key = dict[str, str]


@pytest.fixture
async def theirs(connection: asyncpg.Connection) -> Key:
    """A key of the other tenant's, with every scope."""
    return {"X-API-Key": (await make_key(connection, tenant_id=OTHER)).key.text}


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


async def a_thing_of(operation: Operation, jobs: Jobs) -> UUID:
    """Something of the first tenant's that the operation's address can name."""
    if "{api_key_id}" in operation.path:
        return (await make_key(jobs.connection)).id
    return await a_job_with_everything(jobs)


async def everything_of(jobs: Jobs, id_: UUID) -> list[Any]:
    return [
        await jobs.connection.fetchval(
            f"SELECT jsonb_agg(row ORDER BY row::text)::text FROM {table} AS row"
            f" WHERE {column} = $1",
            id_,
        )
        for table, column in (
            ("jobs", "id"),
            ("job_events", "job_id"),
            ("job_attempts", "job_id"),
            ("log_chunks", "job_id"),
            ("pending_erasures", "job_id"),
            ("api_keys", "id"),
            ("api_keys", "replaces"),
        )
    ]


async def ask(
    api: httpx.AsyncClient, operation: Operation, id_: UUID, key: Key | None = None
) -> httpx.Response:
    path = operation.path.replace("{job_id}", str(id_)).replace("{api_key_id}", str(id_))
    assert "{" not in path, f"say how {operation.path} is filled in"
    body = {"json": BODIES[operation.id]} if operation.takes_body else {}
    return await api.request(operation.method, path, headers=key or {}, **body)


def without(answer: httpx.Response, job_id: UUID) -> tuple[int, str | None, Any]:
    """An answer but for the id that was asked for and that of the request."""
    body = json.loads(answer.text.replace(str(job_id), "<id>"))
    return answer.status_code, answer.headers.get("Content-Type"), body | {"request_id": None}


@pytest.mark.parametrize("operation", BY_ID, ids=lambda operation: operation.id)
async def test_what_is_anothers_is_as_unknown_as_any(
    api: httpx.AsyncClient, theirs: Key, jobs: Jobs, operation: Operation
) -> None:
    mine, unknown = await a_thing_of(operation, jobs), uuid4()
    before = await everything_of(jobs, mine)

    asked = await ask(api, operation, mine, theirs)
    nobodys = await ask(api, operation, unknown, theirs)

    assert asked.status_code == 404
    assert without(asked, mine) == without(nobodys, unknown)
    assert await everything_of(jobs, mine) == before
    assert (await ask(api, operation, mine)).status_code != 404


@pytest.mark.parametrize("operation", LISTS, ids=lambda operation: operation.id)
async def test_no_list_shows_what_is_anothers(
    api: httpx.AsyncClient, theirs: Key, jobs: Jobs, operation: Operation
) -> None:
    ids = [
        await a_job_with_everything(jobs),
        (await jobs.start()).attempt.job_id,
        (await make_key(jobs.connection)).id,
    ]
    answer = await api.get(operation.path, headers=theirs)
    assert answer.status_code == 200
    assert not [id_ for id_ in ids if str(id_) in answer.text]


def scope_of(operation: Operation) -> Scope:
    """The one that the document names."""
    [scope] = {scope for scheme in operation.security for scope in next(iter(scheme.values()))}
    return Scope(scope)


@pytest.mark.parametrize("operation", WITH_SCOPE, ids=lambda operation: operation.id)
async def test_without_its_scope_or_without_a_key_nothing_is_done(
    api: httpx.AsyncClient, jobs: Jobs, operation: Operation
) -> None:
    mine = await a_thing_of(operation, jobs)
    others = set(Scope) - {scope_of(operation), Scope.ADMIN}
    made = await make_key(jobs.connection, scopes=others)
    before = await everything_of(jobs, mine)
    path = operation.path.format(job_id=mine, api_key_id=mine, job_type="echo")
    body = {"json": BODIES.get(operation.id, {})} if operation.takes_body else {}

    key = {"X-API-Key": made.key.text}
    answer = await api.request(operation.method, path, headers=key, **body)
    check_problem(answer, 403, "insufficient_scope")
    del api.headers["X-API-Key"]
    for headers in ({}, {"X-API-Key": generate().text}, {"X-API-Key": made.key.text[:-1] + "-"}):
        answer = await api.request(operation.method, path, headers=headers, **body)
        check_problem(answer, 401, "not_authenticated")
    assert await everything_of(jobs, mine) == before


@pytest.mark.parametrize(("method", "path"), sorted(SELF_OPERATIONS))
async def test_who_is_nobody_learns_nothing_of_itself(
    api: httpx.AsyncClient, method: str, path: str
) -> None:
    del api.headers["X-API-Key"]
    for headers in ({}, {"X-API-Key": generate().text}):
        check_problem(await api.request(method, path, headers=headers), 401, "not_authenticated")


async def test_counts_and_cursors_are_a_tenants_own(
    api: httpx.AsyncClient, theirs: Key, jobs: Jobs
) -> None:
    await jobs.submit()
    await jobs.submit()
    mine = (await api.get(JOBS, params={"limit": 1})).json()
    counts = (await api.get(f"{JOBS}/stats", headers=theirs)).json()
    cursor = {"limit": 1, "cursor": mine["next_cursor"]}
    answer = await api.get(JOBS, params=cursor, headers=theirs)
    assert counts["total"] == 0
    assert answer.json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("body", "headers"),
    [({}, {"Idempotency-Key": "k"}), ({"unique_key": "u"}, {}), ({"name": "x"}, {})],
    ids=["idempotency-key", "unique-key", "neither"],
)
async def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(
    api: httpx.AsyncClient, theirs: Key, jobs: Jobs, body: dict[str, Any], headers: dict[str, str]
) -> None:
    request = {"type": "echo", "payload": {"text": "hello"}} | body
    answers = [
        await api.post(JOBS, json=request, headers=headers | key)
        for key in ({}, theirs, {}, theirs)
    ]
    assert [each.status_code for each in answers[:2]] == [202, 202]
    one, other, one_again, other_again = (UUID(each.json()["id"]) for each in answers)
    assert one != other
    if body != {"name": "x"}:
        assert (one, other) == (one_again, other_again)
    assert (await jobs.row(one))["tenant_id"] == TENANT
    assert (await jobs.row(other))["tenant_id"] == OTHER


async def test_nobody_waits_for_anothers_job(
    api: httpx.AsyncClient, theirs: Key, jobs: Jobs
) -> None:
    mine, unknown = await jobs.submit(), uuid4()

    async def waiting_for(parent: UUID) -> httpx.Response:
        body = {"type": "echo", "depends_on": [str(parent)]}
        return await api.post(JOBS, json=body, headers=theirs)

    refused = await waiting_for(mine)
    assert refused.status_code == 422
    assert without(refused, mine) == without(await waiting_for(unknown), unknown)
    assert not (await jobs.row(mine))["has_dependents"]
