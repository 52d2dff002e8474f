"""What a tenant may have, as clients see it."""

import asyncio

import httpx

from taskflow.jobs.quotas import JOB_BYTES
from taskflow_testing.jobs import Jobs
from taskflow_testing.problems import check_problem

from .conftest import Start

JOBS = "/api/v1/jobs"


async def test_fifty_at_once_get_what_there_is(start: Start, jobs: Jobs) -> None:
    async with start(quota_waiting_jobs=20) as one, start(quota_waiting_jobs=20) as other:
        answers = await asyncio.gather(
            *(api.post(JOBS, json={"type": "echo"}) for api in (one, other) for _ in range(25))
        )
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len(accepted) == 20
    for answer in answers:
        if answer not in accepted:
            check_problem(answer, 429, "quota_exceeded")
            assert int(answer.headers["Retry-After"]) > 0
            problem = answer.json()
            assert (problem["quota"], problem["limit"], problem["use"]) == ("waiting_jobs", 20, 20)
            assert "waiting_jobs is 20" in problem["detail"]
    assert await jobs.connection.fetchval("SELECT count(*) FROM jobs") == 20


async def test_a_replay_has_its_answer_however_full_it_is(start: Start) -> None:
    async with start(quota_waiting_jobs=1) as api:
        key = {"Idempotency-Key": "k"}
        first = await api.post(JOBS, json={"type": "echo"}, headers=key)
        again = await api.post(JOBS, json={"type": "echo"}, headers=key)
        other = await api.post(JOBS, json={"type": "echo"}, headers={"Idempotency-Key": "other"})
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.headers["Idempotent-Replayed"] == "true"
        check_problem(other, 429, "quota_exceeded")
        # Nothing was kept of it, so that it is accepted once there is room.
        assert (await _cancel(api, first)).status_code == 200
        later = await api.post(JOBS, json={"type": "echo"}, headers={"Idempotency-Key": "other"})
        assert later.status_code == 202
        assert "Idempotent-Replayed" not in later.headers


async def test_a_retry_and_a_longer_payload_need_room(start: Start) -> None:
    async with start(quota_waiting_jobs=1, quota_kept_bytes=2 * JOB_BYTES + 30) as api:
        ended = await api.post(JOBS, json={"type": "echo"})
        await _cancel(api, ended)
        waiting = await api.post(JOBS, json={"type": "echo", "payload": {"text": "short"}})
        address = waiting.json()["links"]["self"]

        check_problem(await api.post(f"{_address(ended)}/retry"), 429, "quota_exceeded")
        longer = await api.patch(address, json={"payload": {"text": "x" * 30}})
        check_problem(longer, 429, "quota_exceeded")
        assert longer.json()["quota"] == "kept_bytes"
        assert (await api.get(address)).json()["payload"] == {"text": "short"}
        assert (await api.patch(address, json={"payload": {}})).status_code == 200


def _address(answer: httpx.Response) -> str:
    return str(answer.json()["links"]["self"])


async def _cancel(api: httpx.AsyncClient, answer: httpx.Response) -> httpx.Response:
    return await api.post(f"{_address(answer)}/cancel")
