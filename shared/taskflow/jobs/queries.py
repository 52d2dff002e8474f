"""Every read but that of rows by their ids (`row_queries`), composed with SQLAlchemy Core."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    RowMapping,
    Select,
    and_,
    any_,
    bindparam,
    func,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow.db.models import job_attempts, job_events, job_types, jobs, tenant_usage, workers
from taskflow.jobs.cursors import Position
from taskflow.jobs.quotas import STATE_COLUMNS, jobs_by_state
from taskflow.jobs.row_queries import SHOWN, get_job
from taskflow.jobs.states import JobState, Priority
from taskflow.jobs.worker_state import WorkerState


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list is narrowed to; an empty member doesn't narrow."""

    states: Sequence[JobState] = ()
    types: Sequence[str] = ()
    queues: Sequence[str] = ()
    priorities: Sequence[Priority] = ()
    tags: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None

    def clauses(self, tenant_id: UUID) -> list[ColumnElement[bool]]:
        """The WHERE of a list; a job must carry every tag that is named."""
        found = [jobs.c.tenant_id == tenant_id]
        for column, values in (
            (jobs.c.state, self.states),
            (jobs.c.type, self.types),
            (jobs.c.queue, self.queues),
            (jobs.c.priority, self.priorities),
        ):
            if values:
                found.append(column.in_(values))
        if self.tags:
            found.append(jobs.c.tags.contains(list(self.tags)))
        if self.created_after is not None:
            found.append(jobs.c.created_at >= self.created_after)
        if self.created_before is not None:
            found.append(jobs.c.created_at < self.created_before)
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and where the next page begins, if there is one."""

    rows: Sequence[RowMapping]
    next_position: Position | None


async def list_jobs(
    connection: AsyncConnection,
    tenant_id: UUID,
    wanted: JobFilter,
    *,
    after: Position | None,
    limit: int,
) -> Page:
    """A page of jobs, newest first, by keyset: later arrivals shift nothing."""
    place = tuple_(jobs.c.created_at, jobs.c.id)
    statement: Select[Any] = select(*SHOWN).where(*wanted.clauses(tenant_id))
    if after is not None:
        statement = statement.where(place < tuple_(after.created_at, after.id))
    statement = statement.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit + 1)
    rows = (await connection.execute(statement)).mappings().all()
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], Position(last["created_at"], last["id"]))


@dataclass(slots=True)
class Counts:
    """How many jobs are in which state, in all and by what was asked for."""

    by_state: dict[JobState, int] = field(default_factory=dict)
    by_queue: dict[str, dict[JobState, int]] | None = None
    by_type: dict[str, dict[JobState, int]] | None = None


async def count_jobs(
    connection: AsyncConnection,
    tenant_id: UUID,
    wanted: JobFilter,
    *,
    by_queue: bool = False,
    by_type: bool = False,
) -> Counts:
    """Count a tenant's jobs: all of them from what is counted, others by reading them."""
    if wanted == JobFilter() and not (by_queue or by_type):
        return Counts(by_state=await _read_counts(connection, tenant_id))
    where = wanted.clauses(tenant_id)
    total = await connection.execute(
        select(jobs.c.state, func.count()).where(*where).group_by(jobs.c.state)
    )
    counts = Counts(by_state={JobState(state): number for state, number in total.all()})
    if by_queue:
        counts.by_queue = await _count_by(connection, jobs.c.queue, where)
    if by_type:
        counts.by_type = await _count_by(connection, jobs.c.type, where)
    return counts


_COUNTED = ("waiting_jobs", *STATE_COLUMNS.values())
_COUNTS = select(
    *(func.coalesce(func.sum(tenant_usage.c[name]), 0).label(name) for name in _COUNTED)
).where(tenant_usage.c.tenant_id == bindparam("tenant_id"))


async def _read_counts(connection: AsyncConnection, tenant_id: UUID) -> dict[JobState, int]:
    """What is counted with each step, in a few rows however many jobs there are."""
    row = (await connection.execute(_COUNTS, {"tenant_id": tenant_id})).mappings().one()
    return jobs_by_state({name: int(total) for name, total in row.items()})


async def _count_by(
    connection: AsyncConnection, column: ColumnElement[str], where: list[ColumnElement[bool]]
) -> dict[str, dict[JobState, int]]:
    rows = await connection.execute(
        select(column, jobs.c.state, func.count())
        .where(*where)
        .group_by(column, jobs.c.state)
        .order_by(column)
    )
    counts: dict[str, dict[JobState, int]] = {}
    for name, state, number in rows.all():
        counts.setdefault(name, {})[JobState(state)] = number
    return counts


async def list_attempts(
    connection: AsyncConnection, tenant_id: UUID, job_id: UUID
) -> list[dict[str, Any]]:
    """A job's attempts, in order; the running one, if any, is read from the job itself.

    Raises:
        JobNotFound: this tenant has no such job.
    """
    job = await get_job(connection, tenant_id, job_id)
    ended = await connection.execute(
        select(job_attempts).where(job_attempts.c.job_id == job_id).order_by(job_attempts.c.number)
    )
    attempts = [dict(row) for row in ended.mappings()]
    # It may have ended between the two looks.
    has_ended = any(attempt["number"] == job["attempt"] for attempt in attempts)
    if job["state"] is JobState.RUNNING and not has_ended:
        attempts.append(
            {
                "number": job["attempt"],
                "outcome": "running",
                "worker_id": job["worker_id"],
                "started_at": job["started_at"],
                "finished_at": None,
                "error": None,
            }
        )
    return attempts


async def list_events(
    connection: AsyncConnection, tenant_id: UUID, job_id: UUID, *, limit: int = 10_000
) -> Sequence[RowMapping]:
    """A job's history, in order.

    Raises:
        JobNotFound: this tenant has no such job.
    """
    await get_job(connection, tenant_id, job_id)
    statement = select(job_events).where(job_events.c.job_id == job_id)
    rows = await connection.execute(statement.order_by(job_events.c.id).limit(limit))
    return rows.mappings().all()


def _is_alive(lost_after_seconds: float) -> ColumnElement[bool]:
    return and_(
        workers.c.state != WorkerState.STOPPED,
        workers.c.heartbeat_at
        > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, lost_after_seconds),
    )


async def list_workers(
    connection: AsyncConnection, tenant_id: UUID, *, lost_after_seconds: float
) -> list[dict[str, Any]]:
    """The consumers whose rows are kept, newest first, each with this tenant's running jobs."""
    rows = await connection.execute(
        select(workers, _is_alive(lost_after_seconds).label("alive")).order_by(
            workers.c.started_at.desc(), workers.c.id
        )
    )
    found = [dict(row) for row in rows.mappings()]
    running = await connection.execute(
        select(jobs.c.worker_id, jobs.c.id).where(
            jobs.c.tenant_id == tenant_id, jobs.c.state == JobState.RUNNING
        )
    )
    by_worker: dict[UUID, list[UUID]] = {}
    for worker_id, job_id in running.all():
        by_worker.setdefault(worker_id, []).append(job_id)
    for worker in found:
        worker["running"] = by_worker.get(worker["id"], [])
    return found


async def list_job_types(
    connection: AsyncConnection, *, lost_after_seconds: float
) -> Sequence[RowMapping]:
    """Every registered job type, by name, with how many live consumers run it."""
    statement = (
        select(job_types, func.count(workers.c.id).label("workers"))
        .outerjoin(
            workers,
            and_(
                job_types.c.name == any_(workers.c.job_types),
                _is_alive(lost_after_seconds),
            ),
        )
        .group_by(job_types.c.name)
        .order_by(job_types.c.name)
    )
    return (await connection.execute(statement)).mappings().all()


async def get_job_type(connection: AsyncConnection, name: str) -> RowMapping | None:
    """A registered job type's row, or None."""
    statement = select(job_types).where(job_types.c.name == name)
    return (await connection.execute(statement)).mappings().one_or_none()
