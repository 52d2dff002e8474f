"""Whether somebody works: schedulers, workers, and who takes what waits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from taskflow.db.pool import Connection
from taskflow.doctor.diagnosis import Diagnosis, fail, ok, warn
from taskflow.jobs.dispatch import WITH_WAITING_LANES
from taskflow.jobs.guards import state_list
from taskflow.jobs.states import DISPATCHABLE

TAKE_OVER_SECONDS = 7.0
"""Longer than a candidate may need to follow a leader that has frozen, and than a deployment's
change of leader takes."""

BACKLOG_LONG_SECONDS = 300.0
SEEN_PER_LANE = 10_000
"""How many waiting jobs of a lane are looked at, those first whose pointers are the oldest."""

# The scheduler's sessions for the election carry this name; the one that acts holds the lock.
_SCHEDULERS = """
SELECT count(*) AS running,
       count(*) FILTER (WHERE EXISTS (
           SELECT FROM pg_locks
           WHERE pg_locks.pid = session.pid AND locktype = 'advisory'
             AND mode = 'ExclusiveLock' AND granted)) AS leading
FROM pg_stat_activity AS session
WHERE datname = current_database() AND application_name = 'taskflow-scheduler-leadership'
"""


async def check_schedulers(
    connection: Connection, *, pause: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> Diagnosis:
    """Whether one leads and another could take over.

    `pause` is called, with seconds, before a second look at candidates without a leader.
    """
    (row,) = await connection.fetch(_SCHEDULERS)
    if row["running"] and not row["leading"]:
        await pause(TAKE_OVER_SECONDS)
        (row,) = await connection.fetch(_SCHEDULERS)
    if not row["leading"]:
        return fail(
            "schedulers",
            f"{row['running']} running, none leads",
            "Start one (`make scheduler-run`); meanwhile nothing is rescued, retried after long"
            " waits, run at its time or sent again.",
        )
    if row["running"] == 1:
        return warn("schedulers", "one runs and leads", "Start a second one, to take over from it.")
    return ok("schedulers", f"{row['running']} running, one leads")


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that lives, with what it takes."""

    queues: frozenset[str]
    job_types: frozenset[str]
    concurrency: int
    heartbeat_age_seconds: float
    draining: bool


_WORKERS = """
SELECT queues, job_types, concurrency, state, now() AS seen_at,
       extract(epoch FROM now() - heartbeat_at)::float8 AS age
FROM workers WHERE state <> 'stopped'
"""


async def read_workers(
    connection: Connection, *, lost_after_seconds: float
) -> tuple[list[Worker], int]:
    """The workers that live, and how many stopped beating without a good-bye."""
    rows = await connection.fetch(_WORKERS)
    alive = [_worker(row) for row in rows if row["age"] <= lost_after_seconds]
    return alive, len(rows) - len(alive)


def _worker(row: Any) -> Worker:
    return Worker(
        frozenset(row["queues"]),
        frozenset(row["job_types"]),
        row["concurrency"],
        row["age"],
        row["state"] == "draining",
    )


def check_workers(alive: Sequence[Worker], lost: int) -> Diagnosis:
    """Whether any lives."""
    gone = f"; {lost} of the last day ended without a good-bye" if lost else ""
    if not alive:
        return fail("workers", f"none lives{gone}", "Start one (`make consumer-run`).")
    slots = sum(worker.concurrency for worker in alive)
    oldest = max(worker.heartbeat_age_seconds for worker in alive)
    text = f"{len(alive)} alive with {slots} slots, oldest heartbeat {oldest:.0f} s ago{gone}"
    if all(worker.draining for worker in alive):
        return fail("workers", f"{text}, all of them draining", "Start one (`make consumer-run`).")
    return ok("workers", text)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The jobs of one type that wait in one queue, due and not.

    `are_all`: no lane of the queue holds more jobs than were looked at.
    """

    queue: str
    type: str
    count: int
    due: int
    oldest_age_seconds: float
    are_all: bool


_WAITING = f"""{WITH_WAITING_LANES}
SELECT lane.queue, waiting.type, count(*) AS count,
       count(*) FILTER (WHERE waiting.run_at <= now()) AS due,
       coalesce(extract(epoch FROM now() - min(waiting.run_at))::float8, 0) AS oldest_age_seconds,
       max(waiting.seen) <= $1 AS are_all
FROM lane CROSS JOIN LATERAL (
    SELECT type, run_at, count(*) OVER () AS seen FROM (
        SELECT type, run_at FROM jobs
        WHERE state IN {state_list(DISPATCHABLE)}
          AND queue = lane.queue AND priority = lane.priority
        ORDER BY queue, priority, pointer_at LIMIT $1 + 1
    ) AS looked_at
) AS waiting
GROUP BY lane.queue, waiting.type
ORDER BY lane.queue, waiting.type
"""


async def read_waiting(connection: Connection) -> list[Waiting]:
    """What waits, by queue and type."""
    return [Waiting(**row) for row in await connection.fetch(_WAITING, SEEN_PER_LANE)]


def check_waiting(waiting: Sequence[Waiting], alive: Sequence[Worker]) -> list[Diagnosis]:
    """Whether every queue and every type that jobs wait for has a worker, and how long they do."""
    takers = [worker for worker in alive if not worker.draining]
    return [_check_queues(waiting, takers), _check_types(waiting, takers), _check_age(waiting)]


def _check_queues(waiting: Sequence[Waiting], takers: Sequence[Worker]) -> Diagnosis:
    served = frozenset[str]().union(*(worker.queues for worker in takers))
    queues = {each.queue for each in waiting}
    if alone := sorted(queues - served):
        return fail(
            "queues",
            "jobs wait where no live worker takes them",
            "Start a worker whose TASKFLOW_QUEUES or job types name them.",
            [
                f"{queue}: {_number([each for each in waiting if each.queue == queue])} jobs"
                for queue in alone
            ],
        )
    return ok("queues", f"jobs wait in {len(queues)}, each has a worker")


def _check_types(waiting: Sequence[Waiting], takers: Sequence[Worker]) -> Diagnosis:
    unknown = [
        each
        for each in waiting
        if any(each.queue in worker.queues for worker in takers)
        and not any(each.queue in w.queues and each.type in w.job_types for w in takers)
    ]
    if unknown:
        return fail(
            "job types",
            "jobs wait whose type no live worker of their queue knows",
            "Start a worker whose TASKFLOW_HANDLERS names the module of the type, or cancel them.",
            [f"{each.type} in queue {each.queue}: {_number([each])} jobs" for each in unknown],
        )
    return ok("job types", "none waits that the workers of its queue do not know")


def _check_age(waiting: Sequence[Waiting]) -> Diagnosis:
    due = [each for each in waiting if each.due]
    oldest = max(due, key=_age, default=None)
    if oldest is None:
        return ok("backlog", "no due job waits")
    number = _at_least(sum(each.due for each in due), due)
    text = f"{number} due jobs wait, the oldest in queue {oldest.queue} for {_age(oldest):.0f} s"
    if _age(oldest) > BACKLOG_LONG_SECONDS:
        return warn("backlog", text, "Start more workers for that queue, or look why theirs stall.")
    return ok("backlog", text)


def _number(waiting: Sequence[Waiting]) -> str:
    return _at_least(sum(each.count for each in waiting), waiting)


def _at_least(number: int, waiting: Sequence[Waiting]) -> str:
    return str(number) if all(each.are_all for each in waiting) else f"at least {number}"


def _age(waiting: Waiting) -> float:
    return waiting.oldest_age_seconds
