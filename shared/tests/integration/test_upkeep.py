"""What happens to jobs because time has passed."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.commands import cancel, retry
from taskflow.jobs.finishing import Stale, finish
from taskflow.jobs.leases import renew
from taskflow.jobs.losses import LOSSES_SPARED
from taskflow.jobs.outcomes import completed
from taskflow.jobs.upkeep import (
    Rescued,
    database_time,
    expire,
    prune_idempotency_keys,
    prune_workers,
    rescue,
)
from taskflow.jobs.workers import WorkerRegistration, register_worker
from taskflow_testing.jobs import TENANT, Connect, Jobs, idempotency


async def lose(jobs: Jobs, **changes: object) -> ClaimedJob:
    """A job that runs under a lease that has run out."""
    claimed = await jobs.start(**changes)
    await run_out(jobs, claimed.attempt.job_id)
    return claimed


async def run_out(jobs: Jobs, job_id: UUID) -> None:
    await jobs.connection.execute(
        "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = $1", job_id
    )


async def rescue_now(jobs: Jobs, **options: Any) -> list[Rescued]:
    return await rescue(
        jobs.connection, expired_before=await database_time(jobs.connection), **options
    )


async def make_late(jobs: Jobs, job_id: UUID) -> None:
    await jobs.connection.execute(
        "UPDATE jobs SET expires_at = now() - interval '1 s' WHERE id = $1", job_id
    )


async def test_a_job_whose_worker_is_lost_runs_again_at_once(jobs: Jobs) -> None:
    worker = WorkerRegistration(jobs.worker_id, "web-1", 42, "1", ["default"], ["echo"], 1)
    await register_worker(jobs.connection, worker)
    claimed = await lose(jobs)
    job_id = claimed.attempt.job_id

    (rescued,) = await rescue_now(jobs)

    assert (rescued.job_id, rescued.state, rescued.attempt) == (job_id, "retrying", 1)
    row = await jobs.row(job_id)
    assert row["pointer_at"] is row["worker_id"] is row["lease_expires_at"] is None
    assert row["run_at"] <= row["updated_at"]
    error = json.loads(row["error"])
    assert error["type"] == "worker_lost"
    assert error["retryable"] is True
    for part in (str(jobs.worker_id), "web-1", "42", "last heard from at 2"):
        assert part in error["message"]
    assert (await jobs.history(job_id))[-1] == ("lease_lost", "running", "retrying")
    attempt = await jobs.connection.fetchrow("SELECT * FROM job_attempts")
    assert attempt is not None
    assert (attempt["number"], attempt["outcome"], attempt["worker_id"]) == (
        1,
        "lost",
        jobs.worker_id,
    )
    assert json.loads(attempt["error"]) == error

    assert await finish(jobs.connection, [(claimed.attempt, completed("1"))]) == [Stale(job_id)]
    (again,) = await jobs.claim(job_id)
    assert isinstance(again, ClaimedJob)
    assert again.attempt.number == 2


async def test_a_worker_without_a_row_is_named_all_the_same(jobs: Jobs) -> None:
    claimed = await lose(jobs)
    await rescue_now(jobs)
    message = json.loads((await jobs.row(claimed.attempt.job_id))["error"])["message"]
    assert message.startswith(f"Worker {jobs.worker_id} stopped renewing its lease, which ran out")


async def test_a_lease_that_runs_is_left_alone(jobs: Jobs) -> None:
    claimed = await jobs.start()
    seen_at = await database_time(jobs.connection)
    await run_out(jobs, claimed.attempt.job_id)
    assert await rescue(jobs.connection, expired_before=seen_at - timedelta(minutes=1)) == []
    await renew(
        jobs.connection,
        [(claimed.attempt.job_id, 1)],
        worker_id=jobs.worker_id,
        lease_seconds=15,
    )
    assert await rescue_now(jobs) == []
    assert await jobs.state(claimed.attempt.job_id) == "running"


async def test_each_further_loss_waits_a_little_until_losses_are_spared_no_more(
    jobs: Jobs,
) -> None:
    job_id = await jobs.submit(max_attempts=3)
    delays, states, left = [], [], []
    for losses in range(LOSSES_SPARED + 3):
        (verdict,) = await jobs.claim(job_id)
        assert isinstance(verdict, ClaimedJob)
        assert (verdict.losses, verdict.attempt.number) == (losses, losses + 1)
        left.append(verdict.attempts_left)
        await run_out(jobs, job_id)
        (rescued,) = await rescue_now(jobs)
        states.append(str(rescued.state))
        row = await jobs.row(job_id)
        delays.append(round((row["run_at"] - row["updated_at"]).total_seconds()))
        await jobs.connection.execute("UPDATE jobs SET run_at = now() WHERE id = $1", job_id)

    assert delays == [0] + [2] * (LOSSES_SPARED + 1) + [0]
    assert left == [2] * LOSSES_SPARED + [2, 1, 0]
    assert states == ["retrying"] * (LOSSES_SPARED + 2) + ["failed"]
    row = await jobs.row(job_id)
    assert row["attempt"] == row["attempt_limit"] == LOSSES_SPARED + 3
    assert json.loads(row["error"])["type"] == "worker_lost"
    assert row["finished_at"] is not None
    assert (await jobs.history(job_id))[-1] == ("lease_lost", "running", "failed")


async def test_losses_of_an_earlier_budget_do_not_count(jobs: Jobs) -> None:
    claimed = await lose(jobs, max_attempts=1)
    job_id = claimed.attempt.job_id
    (rescued,) = await rescue_now(jobs)
    assert rescued.state == "failed"
    await jobs.connection.execute("UPDATE jobs SET max_attempts = 2 WHERE id = $1", job_id)
    await retry(jobs.connection, TENANT, job_id)
    (again,) = await jobs.claim(job_id)
    assert isinstance(again, ClaimedJob)
    assert again.losses == 0
    await run_out(jobs, job_id)

    (rescued,) = await rescue_now(jobs)

    row = await jobs.row(job_id)
    assert rescued.state == "retrying"
    assert row["run_at"] <= row["updated_at"]
    (again,) = await jobs.claim(job_id)
    assert isinstance(again, ClaimedJob)
    assert (again.losses, again.attempt.number, again.attempts_left) == (1, 3, 1)


async def test_a_job_that_asked_for_one_attempt_is_not_begun_again(jobs: Jobs) -> None:
    claimed = await lose(jobs, max_attempts=1)
    (rescued,) = await rescue_now(jobs)
    assert rescued.state == "failed"
    row = await jobs.row(claimed.attempt.job_id)
    assert (row["attempt"], row["attempt_limit"]) == (1, 1)


async def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(jobs: Jobs) -> None:
    claimed = await lose(jobs)
    job_id = claimed.attempt.job_id
    await cancel(jobs.connection, TENANT, job_id)

    (rescued,) = await rescue_now(jobs)

    assert rescued.state == "cancelled"
    row = await jobs.row(job_id)
    assert json.loads(row["error"])["type"] == "cancelled"
    assert row["finished_at"] is not None
    assert (await jobs.history(job_id))[-1] == ("cancel", "running", "cancelled")
    assert await jobs.connection.fetchval("SELECT outcome FROM job_attempts") == "lost"


async def test_what_waits_for_a_lost_job_is_settled_with_it(jobs: Jobs) -> None:
    parent = await jobs.submit(max_attempts=1)
    child = await jobs.submit(depends_on=[parent])
    grandchild = await jobs.submit(depends_on=[child])
    await jobs.claim(parent)
    await run_out(jobs, parent)

    await rescue_now(jobs)

    assert [await jobs.state(job_id) for job_id in (parent, child, grandchild)] == [
        "failed",
        "cancelled",
        "cancelled",
    ]


async def test_rescues_at_once_take_each_job_once(jobs: Jobs, connect: Connect) -> None:
    lost = {(await lose(jobs)).attempt.job_id for _ in range(30)}
    at = await database_time(jobs.connection)
    connections = [await connect() for _ in range(3)]

    batches = await asyncio.gather(
        *(rescue(connection, expired_before=at, limit=20) for connection in connections),
    )
    rest = await rescue_now(jobs)

    assert sorted(job.job_id for batch in [*batches, rest] for job in batch) == sorted(lost)
    assert await jobs.connection.fetchval("SELECT count(*) FROM job_attempts") == 30


async def test_a_held_row_does_not_hold_up_the_others(jobs: Jobs, connect: Connect) -> None:
    held, free = await lose(jobs), await lose(jobs)
    other = await connect()
    async with other.transaction():
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", held.attempt.job_id)
        assert [job.job_id for job in await rescue_now(jobs)] == [free.attempt.job_id]
    assert [job.job_id for job in await rescue_now(jobs)] == [held.attempt.job_id]


@pytest.mark.parametrize("state", ["queued", "scheduled", "retrying", "blocked"])
async def test_a_waiting_job_expires(jobs: Jobs, state: str) -> None:
    job_id = await jobs.submit()
    await jobs.connection.execute(
        "UPDATE jobs SET state = $2::text::job_state WHERE id = $1", job_id, state
    )
    assert await expire(jobs.connection) == []
    await make_late(jobs, job_id)

    assert await expire(jobs.connection) == [job_id]
    assert await expire(jobs.connection) == []

    row = await jobs.row(job_id)
    assert (row["state"], row["pointer_at"]) == ("expired", None)
    assert row["finished_at"] is not None
    error = json.loads(row["error"])
    assert (error["type"], error["retryable"]) == ("expired", False)
    assert row["expires_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") in error["message"]
    assert (await jobs.history(job_id))[-1] == ("expire", state, "expired")


async def test_a_running_job_does_not_expire(jobs: Jobs) -> None:
    claimed = await jobs.start()
    await make_late(jobs, claimed.attempt.job_id)
    assert await expire(jobs.connection) == []


async def test_what_waits_for_an_expired_job_is_cancelled(jobs: Jobs) -> None:
    parent = await jobs.submit()
    child = await jobs.submit(depends_on=[parent])
    await make_late(jobs, parent)
    await expire(jobs.connection)
    assert await jobs.state(child) == "cancelled"


async def test_old_idempotency_keys_are_pruned_in_slices(jobs: Jobs) -> None:
    for key in ("a", "b", "c"):
        await jobs.submit(idempotency=idempotency(key))
    await jobs.connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key <> 'c'"
    )
    pruned = [await prune_idempotency_keys(jobs.connection, limit=1) for _ in range(3)]
    assert pruned == [1, 1, 0]
    assert await jobs.connection.fetchval("SELECT array_agg(key) FROM idempotency_keys") == ["c"]


async def test_workers_long_gone_are_pruned(jobs: Jobs) -> None:
    gone, here = uuid7(), uuid7()
    for worker_id in (gone, here):
        worker = WorkerRegistration(worker_id, "host", 1, "1", [], [], 1)
        await register_worker(jobs.connection, worker)
    await jobs.connection.execute(
        "UPDATE workers SET heartbeat_at = $2 WHERE id = $1",
        gone,
        datetime.now(UTC) - timedelta(hours=25),
    )
    assert await prune_workers(jobs.connection) == 1
    assert await jobs.connection.fetchval("SELECT array_agg(id) FROM workers") == [here]
