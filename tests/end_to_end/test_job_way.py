"""A job's way through HTTP, the broker, a worker and back, on real services."""

import asyncio
import itertools
import json
import uuid
from datetime import datetime
from typing import Any

import aio_pika
import pytest

from taskflow_testing.job_client import Job, JobClient
from taskflow_testing.services import Servers, Services
from taskflow_testing.waiting import eventually

# The whole way leans on what queues and dead-lettering do, so the next RabbitMQ sees it too.
pytestmark = pytest.mark.broker


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def names(events: list[Job]) -> list[str]:
    return [event["event"] for event in events]


async def find_dead(amqp_url: str, job: Job) -> aio_pika.abc.AbstractIncomingMessage:
    """The message of `job` among the dead; those before it are taken out as well."""

    async def look() -> aio_pika.abc.AbstractIncomingMessage | None:
        async with await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue("jobs.dead", ensure=False)
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                if message.message_id == job["id"]:
                    return message
        return None

    return await eventually(look, pause=0.2)


async def test_echo_completes_with_result_log_events_and_attempt(
    jobs: JobClient, services: Services
) -> None:
    answer = await jobs.http.post(
        "/api/v1/jobs", json={"type": "echo", "payload": {"text": "hello"}, "tags": ["first"]}
    )
    assert answer.status_code == 202
    submitted = answer.json()
    assert answer.headers["Location"] == submitted["links"]["self"]
    assert (submitted["state"], submitted["attempt"]) == ("queued", 0)

    job = await jobs.completes(submitted)
    assert job["result"] == {"text": "hello"}
    assert (job["attempt"], job["error"], job["tags"]) == (1, None, ["first"])
    assert at(job["created_at"]) <= at(job["started_at"]) <= at(job["finished_at"])
    assert names(await jobs.events(job)) == ["submit", "claim", "succeed"]
    (attempt,) = await jobs.attempts(job)
    assert (attempt["number"], attempt["outcome"]) == (1, "completed")
    workers = (await jobs.http.get("/api/v1/workers")).json()["items"]
    assert attempt["worker_id"] in [worker["id"] for worker in workers if worker["alive"]]


async def test_what_a_handler_logs_is_in_its_log(jobs: JobClient) -> None:
    job = await jobs.completes(await jobs.submit("trial.logs"))
    assert job["result"] == {"attempt": 1, "job_id": job["id"]}
    await jobs.log_has(job, "by a thread")
    answer = await jobs.http.get(job["links"]["logs"], headers={"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    said = [(line["level"], line["logger"], line["message"]) for line in lines]
    assert said == [
        ("info", "job", "by the context"),
        ("warning", "trial", "by logging: really"),
        ("error", "trial", "by a thread"),
    ]
    assert (lines[0]["width"], lines[0]["emoji"]) == (320, "🦊")
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)


async def test_retries_go_down_the_ladder_until_the_job_completes(jobs: JobClient) -> None:
    job = await jobs.completes(await jobs.submit("flaky", {"fail_times": 2}))
    assert job["attempt"] == 3
    attempts = await jobs.attempts(job)
    assert [attempt["outcome"] for attempt in attempts] == ["retryable", "retryable", "completed"]
    # The backoff begins at 1 s and doubles, with a quarter of jitter; a rung is at most 1 s late,
    # and the rest is for a machine with much to do.
    for (earlier, later), backoff in zip(itertools.pairwise(attempts), (1, 2), strict=True):
        waited = (at(later["started_at"]) - at(earlier["finished_at"])).total_seconds()
        assert 0.75 * backoff <= waited <= 1.25 * backoff + 5
    assert names(await jobs.events(job)) == [
        "submit", "claim", "fail", "claim", "fail", "claim", "succeed",
    ]  # fmt: skip


async def test_a_handler_chooses_how_long_its_retry_waits(jobs: JobClient) -> None:
    job = await jobs.completes(await jobs.submit("trial.retries", {"delay_seconds": 0}))
    first, second = await jobs.attempts(job)
    assert (at(second["started_at"]) - at(first["finished_at"])).total_seconds() < 5
    assert job["result"] == 2

    long = await jobs.submit("trial.retries", {"delay_seconds": 3600})
    long = await jobs.reaches(long, "retrying")
    remaining = at(long["run_at"]) - at(long["updated_at"])
    assert 3590 < remaining.total_seconds() <= 3600
    assert long["error"]["message"] == "not now"


async def test_a_permanent_failure_is_among_the_dead_with_its_log(
    jobs: JobClient, real_servers: Servers
) -> None:
    job = await jobs.reaches(await jobs.submit("trial.fails_with_log"), "failed")
    assert job["attempt"] == 1
    assert job["error"]["message"] == "it can never work"
    assert job["error"]["retryable"] is False
    await jobs.log_has(job, "the last words")
    message = await find_dead(real_servers.amqp_url, job)
    assert json.loads(message.body) == {"v": 1, "job_id": job["id"]}
    assert message.type == "trial.fails_with_log"


async def test_a_job_that_has_used_up_its_attempts_fails(
    jobs: JobClient, real_servers: Servers
) -> None:
    job = await jobs.submit("flaky", {"fail_times": 9}, max_attempts=2)
    job = await jobs.reaches(job, "failed")
    assert job["attempt"] == 2
    attempts = await jobs.attempts(job)
    assert [attempt["outcome"] for attempt in attempts] == ["retryable", "failed"]
    assert await find_dead(real_servers.amqp_url, job)
    answer = await jobs.http.post(f"/api/v1/jobs/{job['id']}/retry")
    assert answer.status_code == 202
    job = await jobs.reaches(job, "failed")
    assert [attempt["number"] for attempt in await jobs.attempts(job)] == [1, 2, 3, 4]


async def test_an_isolated_handler_runs_in_a_process_of_its_own(
    jobs: JobClient, services: Services
) -> None:
    job = await jobs.completes(await jobs.submit("trial.isolated", {"seconds": 0}))
    pids = {process.pid for process in services.processes}
    assert job["result"]["pid"] not in pids
    log = await jobs.log_has(job, "by logging, isolated")
    assert f"pid={job['result']['pid']}" in log


@pytest.mark.parametrize("job_type", ["trial.waits", "trial.in_thread", "trial.isolated"])
async def test_a_running_job_is_cancelled(jobs: JobClient, job_type: str) -> None:
    job = await jobs.submit(job_type, {"seconds": 90})
    await jobs.reaches(job, "running")
    answer = await jobs.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert answer.status_code == 202
    assert answer.json()["cancel_requested"] is True
    job = await jobs.reaches(job, "cancelled", timeout=20)
    assert job["error"]["type"] == "cancelled"
    assert [attempt["outcome"] for attempt in await jobs.attempts(job)] == ["cancelled"]
    again = await jobs.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert again.status_code == 200


async def test_progress_is_seen_while_a_job_runs(jobs: JobClient) -> None:
    job = await jobs.submit("trial.waits", {"seconds": 90})

    async def look() -> Any:
        return (await jobs.get(job))["progress"]

    assert await eventually(look) == {"percent": 10.0, "message": "waiting"}
    await jobs.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    await jobs.reaches(job, "cancelled")


async def test_a_job_that_takes_too_long_is_stopped(jobs: JobClient) -> None:
    job = await jobs.submit("trial.isolated", {"seconds": 90}, timeout_seconds=1, max_attempts=1)
    job = await jobs.reaches(job, "failed")
    assert job["error"] == {
        "type": "timeout",
        "message": "The attempt took longer than 1 s.",
        "retryable": True,
    }


async def test_a_scheduled_job_runs_at_its_time(jobs: JobClient) -> None:
    job = await jobs.submit("echo", {"text": "later"}, delay_seconds=2)
    assert job["state"] == "scheduled"
    job = await jobs.completes(job)
    assert 0 <= (at(job["started_at"]) - at(job["run_at"])).total_seconds() < 10
    assert names(await jobs.events(job)) == ["submit", "due", "claim", "succeed"]


async def test_a_job_that_waits_too_long_expires(jobs: JobClient) -> None:
    nobody = f"nobody-{uuid.uuid4().hex[:8]}"
    job = await jobs.submit("echo", {"text": "too late"}, queue=nobody, ttl_seconds=1)
    job = await jobs.reaches(job, "expired")
    assert job["attempt"] == 0


async def test_a_large_result_comes_back_whole(jobs: JobClient) -> None:
    text = "0123456789" * 10_000
    job = await jobs.completes(await jobs.submit("echo", {"text": text}))
    assert job["result"] == {"text": text}


async def test_urgent_goes_before_high_before_medium_before_low(
    jobs: JobClient, services: Services
) -> None:
    queue = f"order-{uuid.uuid4().hex[:8]}"
    submitted = [
        await jobs.submit("trial.waits", {"seconds": 0.3}, queue=queue, priority=priority)
        for priority in ("low", "high", "medium", "urgent", "low", "urgent", "high", "medium")
    ]
    async with services.consumer(handlers="trial_jobs", concurrency=1, queues=queue):
        ended = [await jobs.completes(job) for job in submitted]
    ended.sort(key=lambda job: at(job["started_at"]))
    # The first is whichever lane the broker was quickest to answer for.
    order = [job["priority"] for job in ended[1:]]
    assert order == sorted(order, key=["urgent", "high", "medium", "low"].index)


async def test_low_still_moves_under_a_stream_of_urgent_jobs(
    jobs: JobClient, services: Services
) -> None:
    queue = f"low-{uuid.uuid4().hex[:8]}"
    for _ in range(25):
        await jobs.submit("trial.waits", {"seconds": 0.05}, queue=queue, priority="urgent")
    low = await jobs.submit("trial.waits", {"seconds": 0.05}, queue=queue, priority="low")
    async with services.consumer(handlers="trial_jobs", concurrency=1, queues=queue):
        low = await jobs.completes(low)
    page = await jobs.http.get("/api/v1/jobs", params={"queue": queue, "state": "completed"})
    before = [job for job in page.json()["items"] if at(job["started_at"]) < at(low["started_at"])]
    assert len(before) <= 15


async def test_a_handler_that_holds_the_interpreter_keeps_its_lease(
    jobs: JobClient, services: Services
) -> None:
    queue = f"greedy-{uuid.uuid4().hex[:8]}"
    async with services.consumer(handlers="trial_jobs", queues=queue):
        # Longer than two leases of 3 s.
        greedy = await jobs.submit("trial.holds_interpreter", {"seconds": 7}, queue=queue)
        beside = await jobs.submit("trial.waits", {"seconds": 1}, queue=queue)
        ended = await asyncio.gather(jobs.completes(greedy), jobs.completes(beside))
    for job in ended:
        assert job["attempt"] == 1
        assert names(await jobs.events(job)) == ["submit", "claim", "succeed"]


async def test_two_schedulers_send_each_job_once(jobs: JobClient, services: Services) -> None:
    submitted = [
        await jobs.submit("echo", {"text": str(number)}, delay_seconds=1) for number in range(20)
    ]
    for job in submitted:
        done = await jobs.completes(job)
        assert names(await jobs.events(done)) == ["submit", "due", "claim", "succeed"]
