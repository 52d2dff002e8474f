"""Rows that requests read together, or alone where they are large."""

import asyncio
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from uuid_utils.compat import uuid7

from taskflow.errors import JobNotFound
from taskflow_api.job_rows import ROWS_AT_ONCE, SMALL_BYTES, JobRows
from taskflow_testing.jobs import TENANT, Jobs

OTHER = UUID("00000000-0000-7000-8000-00000000000b")


@pytest.fixture
async def rows(app: FastAPI, api: httpx.AsyncClient) -> JobRows:
    del api  # by which it is started
    job_rows: JobRows = app.state.resources.job_rows
    return job_rows


async def test_each_has_its_own_row_however_many_ask_at_once(rows: JobRows, jobs: Jobs) -> None:
    sizes = {await jobs.submit(payload={"text": "x" * n}): n for n in range(3 * ROWS_AT_ONCE)}
    large = {
        await jobs.submit(payload={"text": "x" * n}): n for n in range(SMALL_BYTES, SMALL_BYTES + 3)
    }
    asked = [*sizes, *large, *sizes]

    found = await asyncio.gather(*(rows.read(TENANT, job_id) for job_id in asked))

    assert [row["id"] for row in found] == asked
    lengths = [len(row["payload"]["text"]) for row in found]
    assert lengths == [(sizes | large)[job_id] for job_id in asked]


async def test_what_is_missing_is_missing_for_who_asked_for_it(rows: JobRows, jobs: Jobs) -> None:
    mine, missing = await jobs.submit(), uuid7()
    theirs = await jobs.submit(tenant_id=OTHER)
    found = await asyncio.gather(
        *(rows.read(TENANT, job_id) for job_id in (mine, missing, theirs)),
        rows.read(OTHER, theirs),
        return_exceptions=True,
    )
    kinds = [type(each) if isinstance(each, Exception) else each["id"] for each in found]  # type: ignore[index]
    assert kinds == [mine, JobNotFound, JobNotFound, theirs]


async def test_only_small_ones_are_read_together(rows: JobRows, jobs: Jobs) -> None:
    small, large = await jobs.submit(), await jobs.submit(payload={"text": "x" * SMALL_BYTES})
    found = await jobs.start()
    await jobs.connection.execute(
        "UPDATE jobs SET result = to_jsonb(repeat('x', $2)), result_bytes = $2 WHERE id = $1",
        found.attempt.job_id,
        SMALL_BYTES,
    )
    together = await rows.read_small(TENANT, [small, large, found.attempt.job_id, uuid7()])
    assert set(together) == {small}


async def test_a_checkpoint_stays_where_it_is(rows: JobRows, jobs: Jobs) -> None:
    started = await jobs.start()
    job_id = started.attempt.job_id
    await jobs.connection.execute(
        "UPDATE jobs SET checkpoint = to_jsonb(repeat('x', 1000000)) WHERE id = $1", job_id
    )
    row = await rows.read(TENANT, job_id)
    assert row["state"] == "running"
    assert "checkpoint" not in row


async def test_a_result_that_lies_elsewhere_makes_no_row_large(rows: JobRows, jobs: Jobs) -> None:
    started = await jobs.start()
    job_id = started.attempt.job_id
    await jobs.connection.execute(
        "UPDATE jobs SET result_object = 'there', result_bytes = $2 WHERE id = $1",
        job_id,
        SMALL_BYTES + 1,
    )
    assert set(await rows.read_small(TENANT, [job_id])) == {job_id}


async def test_a_row_that_cannot_be_read_is_no_others_affair(
    api: httpx.AsyncClient, jobs: Jobs
) -> None:
    bad, *others = [await jobs.submit() for _ in range(6)]
    await jobs.connection.execute(
        "UPDATE jobs SET result = to_jsonb(repeat('9', 5000)::numeric) WHERE id = $1", bad
    )
    answers = await asyncio.gather(
        *(api.get(f"/api/v1/jobs/{job_id}") for job_id in (bad, *others)), return_exceptions=True
    )
    found = [
        answer.status_code if isinstance(answer, httpx.Response) else type(answer)
        for answer in answers
    ]
    assert found[1:] == [200] * 5
    assert found[0] in (500, ValueError)
