"""Jobs with a `unique_key` or parents, many at once."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from taskflow.errors import ServiceUnavailable
from taskflow.jobs import linked_submission
from taskflow.jobs.new_job import NewJob
from taskflow.jobs.submission_answers import Answer
from taskflow.relay import Dispatch
from taskflow_testing.api_keys import make_key
from taskflow_testing.jobs import Jobs, new_job, submit_one
from taskflow_testing.problems import check_problem
from taskflow_testing.waiting import eventually, sessions_waiting

from .conftest import Start

JOBS = "/api/v1/jobs"
BATCH = f"{JOBS}/batch"


def echo(**members: Any) -> dict[str, Any]:
    return {"type": "echo"} | members


async def submit(api: httpx.AsyncClient, jobs: list[Any], key: str = "") -> list[dict[str, Any]]:
    headers = {"Idempotency-Key": key} if key else {}
    answer = await api.post(BATCH, json={"jobs": jobs}, headers=headers)
    assert answer.status_code == 202, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_of_a_batch_with_one_unique_key_the_first_is_accepted_however_it_is_cut(
    start: Start,
) -> None:
    jobs = [echo(unique_key=f"u{n % 13}", payload={"n": n}) for n in range(50)]
    async with start(submission_batch_size=4) as api:
        items = await submit(api, jobs, "key")
        again = await submit(api, jobs, "key")

    assert [item["status"] for item in items] == [202] * 13 + [200] * 37
    assert [item["job"]["payload"]["n"] for item in items] == [n % 13 for n in range(50)]
    assert [item["job"]["id"] for item in again] == [item["job"]["id"] for item in items]
    assert all(item["replayed"] for item in again)


async def test_a_live_job_that_is_deleted_before_it_is_shown_is_a_404_of_its_own(
    api: httpx.AsyncClient, connection: asyncpg.Connection, jobs: Jobs
) -> None:
    alive = await jobs.submit(unique_key="alive")
    await jobs.submit(unique_key="deleted")
    batch = [echo(unique_key=name) for name in ("deleted", "alive", "new")]
    await submit(api, batch, "key")
    await connection.execute("DELETE FROM jobs WHERE unique_key = 'deleted'")

    items = await submit(api, batch, "key")

    assert [item["status"] for item in items] == [404, 200, 202]
    assert items[0]["problem"]["code"] == "job_not_found"
    assert items[1]["job"]["id"] == str(alive)


async def test_live_jobs_are_shown_in_order_whatever_their_sizes(
    api: httpx.AsyncClient, jobs: Jobs
) -> None:
    sizes = [10 if n % 7 else 30_000 + n for n in range(120)]
    for n, size in enumerate(sizes):
        await jobs.submit(unique_key=f"u{n}", payload={"text": "x" * size})
    items = await submit(api, [echo(unique_key=f"u{n}") for n in (*range(120), 0, 119)])

    assert {item["status"] for item in items} == {200}
    found = [len(item["job"]["payload"]["text"]) for item in items]
    assert found == [*sizes, sizes[0], sizes[119]]


async def test_children_of_one_parent_are_accepted_together(
    api: httpx.AsyncClient, jobs: Jobs
) -> None:
    parent = str(await jobs.submit())
    batch = [echo(depends_on=[parent]) for _ in range(30)]
    batch[7] = echo(depends_on=[str(uuid4())])

    items = await submit(api, batch)

    assert [item["status"] for item in items] == [202] * 7 + [422] + [202] * 22
    assert items[7]["problem"]["errors"][0]["pointer"] == "/jobs/7/depends_on/0"
    assert {item["job"]["state"] for item in items if item["status"] == 202} == {"blocked"}


async def test_who_waits_for_a_twin_holds_up_no_other_tenant(
    api: httpx.AsyncClient, connection: asyncpg.Connection, jobs: Jobs
) -> None:
    other = {"X-API-Key": (await make_key(connection, tenant_id=uuid4())).key.text}
    body = echo(unique_key="u")
    async with connection.transaction():
        await submit_one(connection, held := new_job(unique_key="u"))
        mine = [asyncio.create_task(api.post(JOBS, json=body)) for _ in range(20)]
        await eventually(lambda: sessions_waiting(jobs.connection))
        theirs = await api.post(JOBS, json=body, headers=other)
        assert (theirs.status_code, theirs.json().get("deduplicated")) == (202, False)
        assert not any(task.done() for task in mine)

    answers = [await task for task in mine]
    assert {(each.status_code, UUID(each.json()["id"])) for each in answers} == {(200, held.id)}


async def test_what_is_held_up_takes_no_other_along(
    api: httpx.AsyncClient, connection: asyncpg.Connection, jobs: Jobs
) -> None:
    parent = await jobs.submit()
    batch = [echo(unique_key="a"), echo(depends_on=[str(parent)]), echo(unique_key="b")]
    async with connection.transaction():
        await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", parent)
        items = await submit(api, batch)
    assert [item["status"] for item in items] == [202, 503, 202]
    assert items[1]["problem"]["retry_after_seconds"] > 0


@pytest.mark.parametrize("failure", [TimeoutError, ZeroDivisionError])
async def test_what_is_committed_is_published_whatever_comes_after_it(
    api: httpx.AsyncClient,
    app: FastAPI,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[Exception],
) -> None:
    sent: list[UUID] = []
    relay = app.state.resources.relay
    send = relay.send

    async def is_ready() -> bool:
        return bool(relay.ready)

    await eventually(is_ready)

    def note(dispatches: Iterable[Dispatch]) -> None:
        noted = list(dispatches)
        sent.extend(each.pointer.job_id for each in noted)
        send(noted)

    monkeypatch.setattr(relay, "send", note)
    monkeypatch.setattr("taskflow_api.persistence.RETRY_SECONDS", 0.0)
    lock_parents = linked_submission._lock_parents

    async def lock_or_fail(connection: Any, new: Sequence[NewJob]) -> Any:
        if any(job.payload == {"n": 1} for job in new):
            raise failure
        return await lock_parents(connection, new)

    monkeypatch.setattr(linked_submission, "_lock_parents", lock_or_fail)
    # The second with a key is tried after the first is refused: in a transaction of its own.
    batch = [
        echo(unique_key="a"),
        echo(unique_key="u", depends_on=[str(uuid4())]),
        echo(unique_key="u", payload={"n": 1}),
    ]
    answer = await api.post(BATCH, json={"jobs": batch})

    if failure is TimeoutError:
        # And answered, as what has failed is by a 503.
        assert [item["status"] for item in answer.json()["items"]] == [202, 422, 503]
    else:
        assert answer.status_code == 500
    assert sent == [await connection.fetchval("SELECT id FROM jobs WHERE unique_key = 'a'")]


async def test_who_is_held_up_by_its_own_commit_in_doubt_is_looked_for(
    api: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[UUID] = []
    late_commits = app.state.resources.submissions._late_commits
    monkeypatch.setattr(late_commits, "watch", watched.extend)
    tries: list[Sequence[NewJob]] = []

    async def lose_then_wait(
        connection: Any, jobs: Sequence[NewJob], answers: dict[UUID, Answer], **_: Any
    ) -> None:
        del connection
        tries.append(jobs)
        if len(tries) == 1:
            raise TimeoutError
        answers |= {job.id: ServiceUnavailable("PostgreSQL", "it is held") for job in jobs}

    monkeypatch.setattr("taskflow_api.submissions.submit_linked", lose_then_wait)
    check_problem(await api.post(JOBS, json=echo(unique_key="u")), 503, "service_unavailable")
    assert watched == [job.id for job in tries[0]]


async def test_what_callers_have_left_is_committed_before_the_service_ends(
    api: httpx.AsyncClient, app: FastAPI, connection: asyncpg.Connection
) -> None:
    submissions = app.state.resources.submissions
    async with connection.transaction():
        await submit_one(connection, new_job(unique_key="u"))
        left = asyncio.create_task(submit(api, [echo(unique_key=name) for name in ("u", "v")]))
        await eventually(lambda: sessions_waiting(connection))
        left.cancel()
        await asyncio.wait([left])
        end = asyncio.create_task(submissions.close())
        await asyncio.wait([end], timeout=0.1)
        assert not end.done()
    await end

    wanted = "SELECT count(*) FROM jobs WHERE unique_key = $1"
    assert [await connection.fetchval(wanted, name) for name in ("u", "v")] == [1, 1]


@pytest.mark.parametrize("body", [echo(unique_key="u"), echo(depends_on=[str(uuid4())])])
async def test_a_service_that_stops_takes_no_more(
    api: httpx.AsyncClient, app: FastAPI, connection: asyncpg.Connection, body: dict[str, Any]
) -> None:
    await app.state.resources.submissions.close()
    for answer in (
        await api.post(JOBS, json=body),
        await api.post(BATCH, json={"jobs": [body, echo()]}),
    ):
        check_problem(answer, 503, "service_unavailable")
    assert await connection.fetchval("SELECT count(*) FROM jobs") == 0
