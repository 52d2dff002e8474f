"""From rows to the public models."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from taskflow.jobs.new_job import FilledIn, NewJob, Submission, SubmissionKind
from taskflow.jobs.schemas import (
    AttemptView,
    ErrorView,
    EventView,
    JobLinks,
    JobTypeView,
    JobView,
    ProgressView,
    WorkerView,
    shown_time,
)

JOBS_PATH = "/api/v1/jobs"
LOGS_PATH = "/api/v1/logs"


class Row(Protocol):
    """A row by its columns' names, whichever driver it comes from."""

    def __getitem__(self, name: str, /) -> Any:
        """The column's value."""


_DEDUPLICATED = (SubmissionKind.DEDUPLICATED, SubmissionKind.REPLAYED_DEDUPLICATED)


def job_path(job_id: UUID) -> str:
    """Where a job is read."""
    return f"{JOBS_PATH}/{job_id}"


def job_links(job_id: UUID) -> JobLinks:
    """Where a job's parts are read."""
    job = job_path(job_id)
    return JobLinks(
        self=job,
        logs=f"{LOGS_PATH}/{job_id}",
        attempts=f"{job}/attempts",
        events=f"{job}/events",
    )


def job_view(row: Row, *, deduplicated: bool = False) -> JobView:
    """A row of `jobs` as clients see it."""
    percent = row["progress_percent"]
    return JobView(
        id=row["id"],
        type=row["type"],
        state=row["state"],
        attempt=row["attempt"],
        payload=row["payload"],
        queue=row["queue"],
        priority=row["priority"],
        run_at=row["run_at"],
        expires_at=row["expires_at"],
        timeout_seconds=row["timeout_seconds"],
        max_attempts=row["max_attempts"],
        unique_key=row["unique_key"],
        depends_on=row["depends_on"],
        tags=row["tags"],
        metadata=row["metadata"],
        name=row["name"],
        description=row["description"],
        result=row["result"],
        error=row["error"] and ErrorView(**row["error"]),
        progress=None
        if percent is None
        else ProgressView(percent=percent, message=row["progress_message"]),
        cancel_requested=row["cancel_requested"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        deduplicated=deduplicated,
        links=job_links(row["id"]),
    )


def accepted_members(
    job: NewJob, submission: Submission, *, payload: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer to a submission, from what was asked and what the commit said.

    They are the members of a `JobView` as JSON has them, in their order: made by way of the model,
    they would take more than all else that is done for a job. `payload`: as it may be shown.

    A replay of the same request gives the same answer, whatever the job has done since.
    """
    created_at = submission.created_at
    run_at = (
        submission.run_at or job.run_at or created_at + timedelta(seconds=job.delay_seconds or 0)
    )
    expires_at = submission.expires_at or job.expires_at
    if expires_at is None and job.ttl_seconds is not None:
        expires_at = created_at + timedelta(seconds=job.ttl_seconds)
    settled = submission.filled_in or FilledIn(job.queue, job.max_attempts, job.timeout_seconds)
    created = shown_time(created_at)
    job_id = str(submission.job_id)
    path = f"{JOBS_PATH}/{job_id}"
    return {
        "id": job_id,
        "type": job.type,
        "state": submission.state,
        "attempt": 0,
        "payload": payload,
        "queue": settled.queue,
        "priority": job.priority,
        "run_at": created if run_at == created_at else shown_time(run_at),
        "expires_at": None if expires_at is None else shown_time(expires_at),
        "timeout_seconds": settled.timeout_seconds,
        "max_attempts": settled.max_attempts,
        "unique_key": job.unique_key,
        "depends_on": job.depends_on,
        "tags": job.tags,
        "metadata": job.metadata or {},
        "name": job.name,
        "description": job.description,
        "result": None,
        "error": None,
        "progress": None,
        "cancel_requested": False,
        "created_at": created,
        "updated_at": created,
        "started_at": None,
        "finished_at": None,
        "deduplicated": submission.kind in _DEDUPLICATED,
        "links": {
            "self": path,
            "logs": f"{LOGS_PATH}/{job_id}",
            "attempts": f"{path}/attempts",
            "events": f"{path}/events",
        },
    }


def attempt_view(row: Row) -> AttemptView:
    """A row of `queries.list_attempts`; the running attempt has no duration yet."""
    finished_at = row["finished_at"]
    return AttemptView(
        number=row["number"],
        outcome=row["outcome"],
        worker_id=row["worker_id"],
        started_at=row["started_at"],
        finished_at=finished_at,
        duration_seconds=finished_at and (finished_at - row["started_at"]).total_seconds(),
        error=row["error"] and ErrorView(**row["error"]),
    )


def event_view(row: Row) -> EventView:
    """A row of `job_events`."""
    return EventView(
        event=row["event"],
        source=row["source"],
        target=row["target"],
        attempt=row["attempt"],
        worker_id=row["worker_id"],
        detail=row["detail"],
        at=row["at"],
    )


def worker_view(row: Row) -> WorkerView:
    """A row of `queries.list_workers`."""
    return WorkerView(
        id=row["id"],
        host=row["host"],
        pid=row["pid"],
        version=row["version"],
        state=row["state"],
        alive=row["alive"],
        queues=row["queues"],
        job_types=row["job_types"],
        concurrency=row["concurrency"],
        running=row["running"],
        started_at=row["started_at"],
        heartbeat_at=row["heartbeat_at"],
    )


def job_type_view(row: Row) -> JobTypeView:
    """A row of `queries.list_job_types`."""
    return JobTypeView(
        name=row["name"],
        payload_schema=row["schema"],
        queue=row["queue"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
        description=row["description"],
        workers=row["workers"],
        registered_at=row["registered_at"],
        updated_at=row["updated_at"],
    )
