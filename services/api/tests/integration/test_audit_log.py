"""Who did what, as an administrator reads it."""

from typing import Any

import httpx
import pytest

from taskflow_testing.jobs import Jobs
from taskflow_testing.problems import check_problem

JOBS = "/api/v1/jobs"
KEYS = "/api/v1/api-keys"
LOG = "/api/v1/audit-log"


async def entries(api: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await api.get(LOG, params=params)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def a_key(api: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    body = {"name": "shop", "scopes": ["admin"]}
    made: dict[str, Any] = (await api.post(KEYS, json=body, headers=headers)).json()
    return made


async def test_a_change_is_there_with_who_where_and_what(api: httpx.AsyncClient) -> None:
    made = await a_key(api)
    headers = {"X-Request-ID": "request-7", "X-API-Key": made["key"]}
    await api.patch(f"{KEYS}/{made['id']}", json={"name": "till"}, headers=headers)
    newest, oldest = await entries(api)
    newest.pop("id")
    newest.pop("created_at")
    assert newest == {
        "actor": {"kind": "key", "id": made["id"]},
        "action": "api_key.rename",
        "resource": {"kind": "api_key", "id": made["id"]},
        "before": {"name": "shop"},
        "after": {"name": "till"},
        "client_address": "127.0.0.1",
        "request_id": "request-7",
    }
    assert oldest["action"] == "api_key.create"
    assert oldest["actor"] == {"kind": "settings", "id": "settings"}


async def test_what_a_caller_does_to_a_job_outlives_the_job(api: httpx.AsyncClient) -> None:
    body = {"type": "echo", "payload": {"password": "not for the log"}}
    path = (await api.post(JOBS, json=body)).headers["Location"]
    changed = {"priority": "high", "payload": {"password": "nor is this"}}
    assert (await api.patch(path, json=changed)).status_code == 200
    for verb, status in (("cancel", 200), ("cancel", 200), ("retry", 202), ("cancel", 200)):
        assert (await api.post(f"{path}/{verb}")).status_code == status
    assert (await api.delete(path)).status_code == 204
    found = await entries(api, resource=path.rpartition("/")[2])
    waiting, cancelled = {"state": "queued"}, {"state": "cancelled"}
    assert [(each["action"], each["before"], each["after"]) for each in found] == [
        ("job.delete", {"type": "echo", "state": "cancelled"}, None),
        ("job.cancel", waiting, cancelled),
        ("job.retry", cancelled, waiting),
        ("job.cancel", waiting, cancelled),
        ("job.change", None, {"changed": ["payload", "priority"]}),
    ]
    assert {each["actor"]["id"] for each in found} == {"settings"}
    assert {each["client_address"] for each in found} == {"127.0.0.1"}


async def test_who_stops_a_job_that_runs_is_there_once(api: httpx.AsyncClient, jobs: Jobs) -> None:
    job_id = (await jobs.start()).attempt.job_id
    for _ in range(2):
        assert (await api.post(f"{JOBS}/{job_id}/cancel")).status_code == 202
    [entry] = await entries(api, resource=str(job_id))
    assert (entry["action"], entry["after"]) == ("job.cancel", {"cancel_requested": True})


async def test_what_is_refused_leaves_nothing(api: httpx.AsyncClient) -> None:
    made = await a_key(api)
    await api.post(f"{KEYS}/{made['id']}/rotate", json={})
    job = (await api.post(JOBS, json={"type": "echo"})).headers["Location"]
    before = await entries(api)
    assert (await api.post(f"{job}/retry")).status_code == 409
    assert (await api.delete(job)).status_code == 409
    assert (await api.patch(job, json={"expires_at": "2001-01-01T00:00:00Z"})).status_code == 422
    assert (await api.post(f"{KEYS}/{made['id']}/rotate", json={})).status_code == 409
    assert (await api.post(KEYS, json={"name": "x", "scopes": []})).status_code == 422
    assert await entries(api) == before


async def test_it_is_narrowed_to_what_is_asked_for(api: httpx.AsyncClient) -> None:
    one = await a_key(api)
    two = await a_key(api, **{"X-API-Key": one["key"]})
    await api.delete(f"{KEYS}/{two['id']}", headers={"X-API-Key": one["key"]})

    async def actions(**params: Any) -> list[str]:
        return [entry["action"] for entry in await entries(api, **params)]

    create, revoke = "api_key.create", "api_key.revoke"
    assert await actions() == [revoke, create, create]
    assert await actions(actor=one["id"]) == [revoke, create]
    assert await actions(actor=["settings", one["id"]]) == [revoke, create, create]
    assert await actions(action=revoke) == [revoke]
    assert await actions(resource=one["id"]) == [create]
    assert await actions(resource=two["id"], action=[create]) == [create]
    moment = (await entries(api, action=revoke))[0]["created_at"]
    assert await actions(created_after=moment) == [revoke]
    assert await actions(created_before=moment) == [create, create]


async def test_its_pages_skip_none(api: httpx.AsyncClient) -> None:
    made = [(await a_key(api))["id"] for _ in range(5)]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2, "action": "api_key.create"}
    while True:
        page = (await api.get(LOG, params=params)).json()
        seen += [item["resource"]["id"] for item in page["items"]]
        if not page["has_more"]:
            break
        await a_key(api)
        params["cursor"] = page["next_cursor"]
    assert seen == made[::-1]
    refused = await api.get(LOG, params=params | {"action": "api_key.revoke"})
    check_problem(refused, 422, "invalid_cursor")


@pytest.mark.parametrize(
    "query", ["actor=%00", "limit=0", "colour=red", "created_after=1", "action=" + "a" * 129]
)
async def test_it_refuses_what_it_does_not_know(api: httpx.AsyncClient, query: str) -> None:
    check_problem(await api.get(f"{LOG}?{query}"), 422, "invalid_content")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nobody_writes_it(api: httpx.AsyncClient, method: str) -> None:
    assert (await api.request(method, LOG)).status_code == 405
