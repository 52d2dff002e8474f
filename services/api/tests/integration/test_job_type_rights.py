"""What somebody whom nobody knows can have done, after a registration."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from taskflow_api import job_type_rights
from taskflow_testing.api_keys import make_key
from taskflow_testing.problems import check_problem
from taskflow_testing.waiting import eventually

from .conftest import Register, Start

JOBS = "/api/v1/jobs"
ACCOUNT = {"password": "correct horse battery"}


@pytest.fixture(autouse=True)
async def own_type(register: Register) -> None:
    """A job type of whoever runs the service, and one that reaches out."""
    await register("refund")
    await register("email.send")


async def strangers_key(api: httpx.AsyncClient) -> dict[str, str]:
    """The header of a key that somebody makes who has just registered."""
    email = f"eve-{uuid4().hex[:12]}@example.com"
    answer = await api.post("/api/v1/auth/register", json={"email": email, **ACCOUNT})
    assert answer.status_code == 202
    answer = await api.post("/api/v1/auth/token", json={"username": email, **ACCOUNT})
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    key = {"name": "mine", "scopes": ["admin"]}
    answer = await api.post("/api/v1/api-keys", json=key, headers={"X-API-Key": ""} | bearer)
    assert answer.status_code == 201, answer.text
    return {"X-API-Key": answer.json()["key"]}


async def submit(api: httpx.AsyncClient, headers: dict[str, str], job_type: str) -> httpx.Response:
    return await api.post(JOBS, json={"type": job_type}, headers=headers)


async def test_who_has_registered_may_have_jobs_for_trials_and_no_others(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    stranger = await strangers_key(api)
    assert (await submit(api, stranger, "echo")).status_code == 202
    for job_type in ("refund", "email.send", "never.registered"):
        problem = check_problem(await submit(api, stranger, job_type), 403, "job_type_not_allowed")
        assert job_type in problem["detail"]
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 1


async def test_a_strangers_job_is_not_tried_for_ever(api: httpx.AsyncClient) -> None:
    stranger = await strangers_key(api)
    for headers, attempts, status in ((stranger, 10, 202), (stranger, 11, 422), ({}, 1_000, 202)):
        body = {"type": "echo", "max_attempts": attempts}
        answer = await api.post(JOBS, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        if status == 422:
            assert answer.json()["errors"][0]["pointer"] == "/max_attempts"


async def test_tenants_of_the_operator_may_have_all(
    api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    tenant_id = uuid4()
    await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'acme')", tenant_id)
    acme = await make_key(connection, tenant_id=tenant_id)
    assert (await submit(api, {"X-API-Key": acme.key.text}, "refund")).status_code == 202
    assert (await submit(api, {}, "refund")).status_code == 202


@pytest.mark.parametrize("types", [("echo", "refund"), ("*",)])
async def test_the_setting_lists_what_they_may_have(start: Start, types: tuple[str, ...]) -> None:
    async with start(registration_job_types=types) as api:
        stranger = await strangers_key(api)
        assert (await submit(api, stranger, "refund")).status_code == 202


async def test_the_operator_lets_a_tenant_have_all(
    app: FastAPI, api: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    stranger = await strangers_key(api)
    app.state.resources.job_type_rights._registered._seconds = 0.05
    check_problem(await submit(api, stranger, "refund"), 403, "job_type_not_allowed")
    await connection.execute("UPDATE tenants SET is_registered = false")

    async def is_accepted() -> bool:
        return (await submit(api, stranger, "refund")).status_code == 202

    await eventually(is_accepted)


async def test_the_welcome_mail_becomes_no_other_mail(
    start: Start, connection: asyncpg.Connection
) -> None:
    async with start(smtp_host="mail.example.com") as api:
        stranger = await strangers_key(api)
        (mail,) = (await api.get(JOBS, headers=stranger)).json()["items"]
        path = f"{JOBS}/{mail['id']}"
        spam = {"payload": mail["payload"] | {"to": ["victim@example.com"]}}
        refused = await api.patch(path, json=spam, headers=stranger)
        check_problem(refused, 403, "job_type_not_allowed")
        assert (await api.patch(path, json={"tags": ["a"]}, headers=stranger)).status_code == 200
        assert (await api.post(f"{path}/cancel", headers=stranger)).status_code == 200
        refused = await api.post(f"{path}/retry", headers=stranger)
        check_problem(refused, 403, "job_type_not_allowed")
    state = await connection.fetchval("SELECT state FROM jobs WHERE id = $1", UUID(mail["id"]))
    assert state == "cancelled"


async def test_what_was_accepted_before_is_answered_again(start: Start) -> None:
    async with start(registration_job_types=("*",)) as before, start() as after:
        headers = await strangers_key(before) | {"Idempotency-Key": "once"}
        first = await submit(before, headers, "refund")
        again = await submit(after, headers, "refund")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_the_key_of_the_settings_asks_nobody(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> bool:
        raise AssertionError

    monkeypatch.setattr(job_type_rights, "is_registered", fail)
    assert (await submit(api, {}, "refund")).status_code == 202
