"""Jobs for tests."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from taskflow.db.pool import Connection
from taskflow.jobs.attempts import ClaimedJob, Verdict, claim
from taskflow.jobs.linked_submission import submit_linked
from taskflow.jobs.new_job import Idempotency, NewJob, Submission
from taskflow.jobs.quotas import DefaultQuotas
from taskflow.jobs.room import NO_QUOTAS
from taskflow.jobs.states import Priority
from taskflow.jobs.submission import submit
from taskflow.jobs.submission_answers import Answer

Connect = Callable[[], Awaitable[asyncpg.Connection]]

TENANT = UUID("00000000-0000-7000-8000-000000000001")


def new_job(**changes: Any) -> NewJob:
    """A small echo job, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "id": uuid7(),
        "tenant_id": TENANT,
        "type": "echo",
        "queue": "default",
        "priority": Priority.MEDIUM,
        "payload": {"text": "hello"},
        "max_attempts": 4,
    }
    return NewJob(**fields | changes)


def idempotency(key: str, fingerprint: bytes = b"one") -> Idempotency:
    """A key for the path of submissions."""
    return Idempotency("/api/v1/jobs", key, fingerprint)


class Jobs:
    """A small hand for moving jobs about, by the functions under test."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.worker_id = uuid7()

    async def submit(self, **changes: Any) -> UUID:
        job = new_job(**changes)
        answer = await submit_one(self.connection, job)
        assert isinstance(answer, Submission), answer
        return answer.job_id

    async def claim(self, *job_ids: UUID, **changes: Any) -> list[Verdict]:
        options: dict[str, Any] = {
            "worker_id": self.worker_id,
            "claim_token": uuid7(),
            "lease_seconds": 15.0,
            "job_types": ["echo"],
        } | changes
        return await claim(self.connection, job_ids, **options)

    async def start(self, **changes: Any) -> ClaimedJob:
        job_id = await self.submit(**changes)
        (claimed,) = await self.claim(job_id)
        assert isinstance(claimed, ClaimedJob)
        return claimed

    async def row(self, job_id: UUID) -> asyncpg.Record:
        row = await self.connection.fetchrow("SELECT * FROM jobs WHERE id = $1", job_id)
        assert row is not None
        return row

    async def state(self, job_id: UUID) -> str:
        return str((await self.row(job_id))["state"])

    async def history(self, job_id: UUID) -> list[tuple[str, str | None, str]]:
        rows = await self.connection.fetch(
            "SELECT event, source, target FROM job_events WHERE job_id = $1 ORDER BY id", job_id
        )
        return [(row["event"], row["source"], row["target"]) for row in rows]


async def submit_one(
    connection: Connection,
    job: NewJob,
    *,
    with_pointers: bool = True,
    quotas: DefaultQuotas = NO_QUOTAS,
) -> Answer:
    """Submit a job the way that is its own."""
    if job.is_linked:
        answers: dict[UUID, Answer] = {}
        await submit_linked(connection, [job], answers, with_pointers=with_pointers, quotas=quotas)
        return answers[job.id]
    (answer,) = await submit(connection, [job], with_pointers=with_pointers, quotas=quotas)
    return answer
