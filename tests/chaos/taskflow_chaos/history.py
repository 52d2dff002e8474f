"""What became of the jobs, told from the database, the handlers' notes and the keepers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from taskflow_chaos.keeper import Keeper

_LOST_ATTEMPTS = """
SELECT lost.job_id, lost.number, lost.finished_at, worker.pid,
       following.started_at AS ran_again_at,
       job.state::text AS state
FROM job_attempts lost
JOIN workers worker ON worker.id = lost.worker_id
JOIN jobs job ON job.id = lost.job_id
LEFT JOIN job_attempts following
  ON following.job_id = lost.job_id AND following.number = lost.number + 1
WHERE lost.outcome = 'lost'
"""

NOTICE_SECONDS = 2.0
"""How late the suite may see an end, busy as the machine is when all that waited runs at once."""


@dataclass(frozen=True)
class Orphan:
    """An attempt that its worker's death cut short.

    `seconds`: from that death to the beginning of the job's next attempt; None: there was none.
    """

    job_id: UUID
    attempt: int
    worker_pid: int
    state: str
    seconds: float | None


def deaths(services: Sequence[Keeper]) -> dict[int, float]:
    """When each process ended that did, since 1970."""
    return {
        life.pid: life.ended
        for service in services
        for life in service.lives
        if life.ended is not None
    }


async def orphans(connection: asyncpg.Connection, died: Mapping[int, float]) -> list[Orphan]:
    """Every attempt that was lost with a worker that `died`. Ask when all jobs have ended."""
    rows = await connection.fetch(_LOST_ATTEMPTS)
    return [
        Orphan(
            row["job_id"],
            row["number"],
            row["pid"],
            row["state"],
            None
            if row["ran_again_at"] is None
            else row["ran_again_at"].timestamp() - died[row["pid"]],
        )
        for row in rows
        if row["pid"] in died
    ]


async def taken_from_living(
    connection: asyncpg.Connection, died: Mapping[int, float]
) -> list[tuple[UUID, int]]:
    """Attempts that were called lost although their worker lived: job and attempt of each."""
    rows = await connection.fetch(_LOST_ATTEMPTS)
    return [
        (row["job_id"], row["number"])
        for row in rows
        if lived_on(row["finished_at"].timestamp(), died.get(row["pid"]))
    ]


def lived_on(called_lost: float, died: float | None) -> bool:
    """Whether a worker lived when an attempt of its was called lost; `died`: when it was seen dead.

    Its sibling sees its end at once, the suite a moment later, and then the sibling has already
    given the jobs away.
    """
    return died is None or called_lost < died - NOTICE_SECONDS


_RECORDED = """
SELECT ended.job_id, ended.number, ended.outcome::text AS outcome, worker.pid,
       ended.started_at, ended.finished_at
FROM job_attempts ended LEFT JOIN workers worker ON worker.id = ended.worker_id
ORDER BY ended.job_id, ended.number
"""


@dataclass(frozen=True)
class RecordedAttempt:
    """An attempt as the database has it; times are its own, since 1970.

    `worker_pid` is None where the worker's row is gone.
    """

    job_id: UUID
    number: int
    outcome: str
    worker_pid: int | None
    started_at: float
    finished_at: float


async def recorded_attempts(connection: asyncpg.Connection) -> list[RecordedAttempt]:
    """All attempts that have ended, by job and number."""
    rows = await connection.fetch(_RECORDED)
    return [
        RecordedAttempt(
            row["job_id"],
            row["number"],
            row["outcome"],
            row["pid"],
            row["started_at"].timestamp(),
            row["finished_at"].timestamp(),
        )
        for row in rows
    ]


async def first_claims(connection: asyncpg.Connection) -> dict[UUID, float]:
    """When each job was first claimed that has been, since 1970."""
    rows = await connection.fetch(
        "SELECT job_id, min(at) AS at FROM job_events WHERE event = 'claim' GROUP BY job_id"
    )
    return {row["job_id"]: row["at"].timestamp() for row in rows}
