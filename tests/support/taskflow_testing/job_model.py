"""What a job's row must be after each step: the rules of docs/states.md in plain Python.

Time is told by flags, not by a clock: a job is due or not, a lease has run out or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from taskflow.jobs.losses import LOSSES_SPARED
from taskflow.jobs.outcomes import Attempt, OutcomeKind

LADDER_TOP_SECONDS = 1800
ENDED = {"completed", "failed", "cancelled", "expired"}
ENDED_BADLY = ENDED - {"completed"}
WAITING = {"scheduled", "blocked", "queued", "retrying"}
DISPATCHABLE = {"queued", "retrying"}

Event = tuple[str, str | None, str, int]


@dataclass
class JobModel:
    """One job; `lost` are the attempts of this budget that lost their workers."""

    id: UUID
    state: str
    max_attempts: int
    due: bool = True
    can_expire: bool = False
    late: bool = False
    unique_key: str | None = None
    parents: frozenset[UUID] = frozenset()
    attempt: int = 0
    limit: int = 0
    lost: int = 0
    worker: UUID | None = None
    token: UUID | None = None
    lease_over: bool | None = None
    pointer: bool = False
    pointer_old: bool = False
    has_dependents: bool = False
    cancel_requested: bool = False
    result: str | None = None
    error: str | None = None
    events: list[Event] = field(default_factory=list)
    attempts: list[tuple[int, str]] = field(default_factory=list)
    recorded: set[Attempt] = field(default_factory=set)
    released: set[Attempt] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.limit = self.max_attempts
        self.pointer = self.state == "queued"
        self.events.append(("submit", None, self.state, 0))

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def claimable(self) -> bool:
        return self.state in DISPATCHABLE and self.due and not self.late

    def is_run_by(self, attempt: Attempt) -> bool:
        held = (self.attempt, self.worker)
        return self.state == "running" and held == (attempt.number, attempt.worker_id)

    def go(self, event: str, target: str) -> None:
        self.events.append((event, self.state, target, self.attempt))
        self.state = target

    def stamp(self) -> None:
        self.pointer, self.pointer_old = True, False

    def unstamp(self) -> None:
        self.pointer = self.pointer_old = False

    def leave_worker(self) -> None:
        self.worker = self.token = self.lease_over = None
        self.unstamp()


class Model:
    """All jobs, and the idempotency keys that bind: name to (fingerprint, job, deduplicated)."""

    def __init__(self) -> None:
        self.jobs: dict[UUID, JobModel] = {}
        self.keys: dict[str, tuple[bytes, UUID, bool]] = {}

    def twin(self, unique_key: str | None, besides: UUID | None = None) -> JobModel | None:
        """The living job with this unique key."""
        alive = (
            job
            for job in self.jobs.values()
            if job.unique_key == unique_key and not job.ended and job.id != besides
        )
        return None if unique_key is None else next(alive, None)

    def submit(self, job: JobModel) -> None:
        for parent in job.parents:
            self.jobs[parent].has_dependents = True
        self.jobs[job.id] = job

    def claim(self, job: JobModel, worker: UUID, token: UUID) -> None:
        job.attempt += 1
        job.go("claim", "running")
        job.worker, job.token, job.lease_over = worker, token, False

    def finish(
        self, job: JobModel, attempt: Attempt, kind: OutcomeKind, delay: float, result: str | None
    ) -> None:
        if kind is OutcomeKind.RELEASED and not job.cancel_requested:
            job.go("release", "queued")
            job.attempt -= 1
            job.leave_worker()
            job.stamp()
            job.released.add(attempt)
            return
        outcome = OutcomeKind.CANCELLED if kind is OutcomeKind.RELEASED else kind
        target, event, error = self._target(job, outcome)
        job.go(event, target)
        job.leave_worker()
        job.attempts.append((job.attempt, str(outcome)))
        job.recorded.add(attempt)
        job.error = error
        job.result = result if target == "completed" else None
        if target == "retrying":
            job.due = delay == 0
            job.pointer = delay <= LADDER_TOP_SECONDS
        self._ended(job)

    @staticmethod
    def _target(job: JobModel, outcome: OutcomeKind) -> tuple[str, str, str | None]:
        match outcome:
            case OutcomeKind.COMPLETED:
                return "completed", "succeed", None
            case OutcomeKind.CANCELLED:
                return "cancelled", "cancel", "cancelled"
            case OutcomeKind.RETRYABLE if job.cancel_requested:
                return "cancelled", "cancel", "cancelled"
            case OutcomeKind.RETRYABLE if job.attempt < job.limit:
                return "retrying", "fail", "oops"
        return "failed", "fail", "oops"

    def rescue(self, *, with_pointers: bool) -> list[JobModel]:
        rescued = [job for job in self.jobs.values() if job.lease_over]
        for job in rescued:
            self._lose(job, with_pointer=with_pointers)
        return rescued

    def _lose(self, job: JobModel, *, with_pointer: bool) -> None:
        spared = job.lost < LOSSES_SPARED and job.max_attempts > 1
        runs_again = job.attempt < job.limit + spared
        first = job.lost == 0
        job.attempts.append((job.attempt, "lost"))
        job.leave_worker()
        if job.cancel_requested:
            job.error = "cancelled"
            job.go("cancel", "cancelled")
        elif runs_again:
            job.limit += spared
            job.error = "worker_lost"
            job.due = first
            job.pointer = first and with_pointer
            job.go("lease_lost", "retrying")
        else:
            job.error = "worker_lost"
            job.go("lease_lost", "failed")
        job.lost += 1
        self._ended(job)

    def cancel(self, job: JobModel) -> None:
        if job.state == "running":
            if not job.cancel_requested:
                job.cancel_requested = True
                job.go("request_cancel", "running")
        elif not job.ended:
            job.error = "cancelled"
            job.go("cancel", "cancelled")
            self._ended(job)

    def can_retry(self, job: JobModel) -> bool:
        _, ended_from, _, _ = job.events[-1]
        # Of a parent that is gone nobody knows whether a job that ended blocked could have run.
        gone_is_complete = ended_from != "blocked"
        return (
            job.state in ENDED_BADLY
            and self.twin(job.unique_key, besides=job.id) is None
            and all(
                self.jobs[parent].state == "completed" if parent in self.jobs else gone_is_complete
                for parent in job.parents
            )
        )

    def retry(self, job: JobModel) -> None:
        job.go("retry", "queued")
        job.limit = job.attempt + job.max_attempts
        job.lost = 0
        job.due, job.cancel_requested, job.error = True, False, None
        if job.late:
            job.can_expire = job.late = False
        job.stamp()

    def reschedule(self, job: JobModel, *, to_the_future: bool) -> None:
        job.due = not to_the_future
        target = "scheduled" if to_the_future else "queued"
        if job.state not in {"blocked", target}:
            job.go("reschedule", target)
        job.unstamp()
        if job.state == "queued":
            job.stamp()

    def expire(self) -> list[JobModel]:
        late = [job for job in self.jobs.values() if job.late and job.state in WAITING]
        for job in late:
            # Its parent may have expired in this very round.
            job.error = "expired"
            job.unstamp()
            job.go("expire", "expired")
        for job in late:
            self._ended(job)
        return late

    def stamp_due(self) -> list[JobModel]:
        due = [
            job
            for job in self.jobs.values()
            if job.due and not job.pointer and job.state in DISPATCHABLE | {"scheduled"}
        ]
        for job in due:
            job.stamp()
            if job.state == "scheduled":
                job.go("due", "queued")
        return due

    def stamp_lost(self) -> list[JobModel]:
        lost = [
            job
            for job in self.jobs.values()
            if job.pointer_old and job.due and job.state in DISPATCHABLE
        ]
        for job in lost:
            job.stamp()
        return lost

    def _ended(self, job: JobModel) -> None:
        """Free or cancel what waits for a job that has ended, and what waits for that."""
        if not job.ended:
            return
        for child in self._blocked_on(job):
            states = {self.jobs[each].state for each in child.parents if each in self.jobs}
            if states & ENDED_BADLY:
                child.error = "parent_failed"
                child.go("cancel", "cancelled")
                self._ended(child)
            elif states <= {"completed"}:
                child.go("unblock", "queued" if child.due else "scheduled")

    def _blocked_on(self, parent: JobModel) -> Iterator[JobModel]:
        return (
            job for job in self.jobs.values() if job.state == "blocked" and parent.id in job.parents
        )
