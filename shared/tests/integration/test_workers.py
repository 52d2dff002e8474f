"""What workers say of themselves."""

import json
from datetime import UTC, datetime

from uuid_utils.compat import uuid7

from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.worker_state import WorkerState
from taskflow.jobs.workers import (
    JobTypeRegistration,
    WorkerRegistration,
    beat_worker,
    register_job_types,
    register_worker,
    set_worker_state,
)
from taskflow_testing.jobs import Jobs


def registration(**changes: object) -> WorkerRegistration:
    fields: dict[str, object] = {
        "id": uuid7(),
        "host": "web-1",
        "pid": 42,
        "version": "1.0",
        "queues": ["default", "media"],
        "job_types": ["echo"],
        "concurrency": 10,
    }
    return WorkerRegistration(**fields | changes)  # type: ignore[arg-type]


def job_type(**changes: object) -> JobTypeRegistration:
    fields: dict[str, object] = {
        "name": "echo",
        "schema": {"type": "object", "properties": {"text": {"type": "string"}}},
        "queue": "default",
        "max_attempts": 4,
        "timeout_seconds": None,
        "description": None,
    }
    return JobTypeRegistration(**fields | changes)  # type: ignore[arg-type]


async def test_a_worker_registers_beats_and_stops(jobs: Jobs) -> None:
    worker = registration()
    await register_worker(jobs.connection, worker)
    await register_worker(jobs.connection, worker)
    before = await jobs.connection.fetchrow("SELECT * FROM workers")
    assert before is not None
    assert (before["host"], before["state"], before["queues"]) == (
        "web-1",
        "running",
        ["default", "media"],
    )

    at = datetime(2026, 11, 22, 2, 0, 0, 250_000, tzinfo=UTC)
    low, high = Lane("default", Priority.LOW), Lane("default", Priority.HIGH)
    assert await beat_worker(jobs.connection, worker.id, {low: at})
    assert await beat_worker(jobs.connection, worker.id, {high: at})
    await set_worker_state(jobs.connection, worker.id, WorkerState.DRAINING)

    (after,) = await jobs.connection.fetch("SELECT * FROM workers")
    assert after["heartbeat_at"] > before["heartbeat_at"]
    assert after["state"] == "draining"
    assert json.loads(after["watermarks"]) == {
        "default.low": at.isoformat(),
        "default.high": at.isoformat(),
    }


async def test_a_worker_that_is_not_registered_is_told_so(jobs: Jobs) -> None:
    assert not await beat_worker(jobs.connection, uuid7(), {})


async def test_job_types_are_written_only_when_they_change(jobs: Jobs) -> None:
    both = [job_type(name="b"), job_type(name="a", description="first", timeout_seconds=1.5)]
    assert sorted(await register_job_types(jobs.connection, both)) == ["a", "b"]
    versions = await jobs.connection.fetch("SELECT name, xmin, xmax FROM job_types ORDER BY name")

    assert await register_job_types(jobs.connection, both) == []
    again = await jobs.connection.fetch("SELECT name, xmin, xmax FROM job_types ORDER BY name")
    assert again == versions

    changed = [job_type(name="b", max_attempts=9), both[1]]
    assert await register_job_types(jobs.connection, changed) == ["b"]
    rows = await jobs.connection.fetch("SELECT * FROM job_types ORDER BY name")
    assert [row["max_attempts"] for row in rows] == [4, 9]
    assert [row["timeout_seconds"] for row in rows] == [1.5, None]
    assert json.loads(rows[0]["schema"])["properties"] == {"text": {"type": "string"}}
