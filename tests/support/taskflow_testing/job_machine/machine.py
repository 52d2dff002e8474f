"""What the rules share: one connection, the model, and how the jobs they act on are picked."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
)
from uuid_utils.compat import uuid7

from taskflow.doctor import invariants
from taskflow.jobs.new_job import NewJob
from taskflow.jobs.outcomes import Attempt
from taskflow.jobs.states import DISPATCHABLE, WAITING, JobState
from taskflow_testing.job_model import JobModel, Model

Result = TypeVar("Result")
Value = TypeVar("Value")

Pick = tuple[int, bool]
PICKS = st.tuples(st.integers(0, 50), st.sampled_from([True, True, False]))
"""Which job, and whether it is to be one that fits what is done to it."""

BROKER_IS_THERE = st.sampled_from([True, True, False])
"""Without it nothing is stamped: what waits is left to the scheduler."""

Fits = Callable[[JobModel], bool]


def when_some(fits: Fits) -> Callable[[Any], Any]:
    """The rule is tried when a job fits; mostly to that one, at times to any (see `pick`)."""
    return precondition(lambda machine: any(map(fits, machine.model.jobs.values())))


def can_be_stopped(job: JobModel) -> bool:
    return job.state in {"running", "blocked", "retrying"}


def ended(job: JobModel) -> bool:
    return job.ended


def ended_badly(job: JobModel) -> bool:
    return job.ended and job.state != "completed"


def waits(job: JobModel) -> bool:
    return job.state in WAITING


def is_dispatchable(job: JobModel) -> bool:
    """Due or not, late or not: a pointer may come at any time."""
    return job.state in DISPATCHABLE


def runs(job: JobModel) -> bool:
    return job.state == "running"


def is_pointed_at(job: JobModel) -> bool:
    return job.pointer and job.state in DISPATCHABLE


def is_undispatched(job: JobModel) -> bool:
    return job.due and not job.pointer and job.state in DISPATCHABLE | {JobState.SCHEDULED}


def is_early(job: JobModel) -> bool:
    return not job.due and not job.ended


def may_expire(job: JobModel) -> bool:
    return job.can_expire and not job.late and job.state in WAITING


def distinct(*values: Value) -> list[Value]:
    return list(dict.fromkeys(values))


class Database:
    """One loop and one connection for all examples."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.connection: asyncpg.Connection = self.run(asyncpg.connect(url))
        # Nothing crashes here, so no commit has to wait for the disk.
        self.run(self.connection.execute("SET synchronous_commit = off"))
        self.invariants = list(invariants.load().values())

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self.connection.close())
        self._runner.close()


class JobMachine(RuleBasedStateMachine):
    """What its rules share: a database, the model of it, and how jobs are picked."""

    database: Database
    seen: set[str]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.connection = self.database.connection
        self.workers = [uuid7(), uuid7()]
        self.claims: dict[UUID, tuple[list[UUID], UUID]] = {}
        self.submissions: dict[UUID, NewJob] = {}
        self.held: list[Attempt] = []

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.database.run(work)

    def pick(self, pick: Pick, fits: Fits) -> UUID:
        """A job that fits, or any that ever was."""
        number, apt = pick
        fitting = [job.id for job in self.model.jobs.values() if fits(job)] if apt else []
        candidates = fitting or list(self.submissions)
        return candidates[number % len(candidates)]

    def pick_attempt(self, pick: Pick) -> Attempt:
        """One that runs, or one of the past, of a job that runs again if there is any."""
        number, apt = pick
        running = [attempt for attempt in self.held if self.is_held(attempt)]
        past = [attempt for attempt in self.held if attempt not in running]
        outrun = [attempt for attempt in past if self.runs_again(attempt)]
        candidates = (running if apt else outrun or past) or self.held
        return candidates[number % len(candidates)]

    def is_held(self, attempt: Attempt) -> bool:
        job = self.model.jobs.get(attempt.job_id)
        return job is not None and job.is_run_by(attempt)

    def runs_again(self, attempt: Attempt) -> bool:
        job = self.model.jobs.get(attempt.job_id)
        return job is not None and job.state == "running"

    def move(self, job: JobModel, change: str) -> None:
        self.run(self.connection.execute(f"UPDATE jobs SET {change} WHERE id = $1", job.id))
