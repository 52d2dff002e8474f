"""The states of a job and the one table of its transitions.

Every guarded UPDATE derives its WHERE from this table, the PostgreSQL enums are made from these
enums, and a test holds the diagram in the documentation against it.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """Where a job stands; the names are public."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class JobEvent(StrEnum):
    """What happens to a job; each one is a row of its history."""

    SUBMIT = "submit"
    DUE = "due"
    UNBLOCK = "unblock"
    RESCHEDULE = "reschedule"
    CLAIM = "claim"
    SUCCEED = "succeed"
    FAIL = "fail"
    LEASE_LOST = "lease_lost"
    RELEASE = "release"
    REQUEST_CANCEL = "request_cancel"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RETRY = "retry"


class Priority(StrEnum):
    """How soon a waiting job is taken, least urgent first (the order of the PostgreSQL enum)."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})
LIVE = frozenset(JobState) - TERMINAL
WAITING = frozenset(
    {JobState.SCHEDULED, JobState.BLOCKED, JobState.QUEUED, JobState.RETRYING},
)
DISPATCHABLE = frozenset({JobState.QUEUED, JobState.RETRYING})
"""States in which a pointer in the broker leads to a run."""


@dataclass(frozen=True, slots=True)
class Transition:
    """An event's legal edges: from any of `sources` to any of `targets`."""

    sources: frozenset[JobState]
    targets: frozenset[JobState]


def _transition(sources: set[JobState] | frozenset[JobState], *targets: JobState) -> Transition:
    return Transition(frozenset(sources), frozenset(targets))


_S = JobState

TRANSITIONS = MappingProxyType(
    {
        JobEvent.SUBMIT: _transition(set(), _S.QUEUED, _S.SCHEDULED, _S.BLOCKED),
        JobEvent.DUE: _transition({_S.SCHEDULED}, _S.QUEUED),
        JobEvent.UNBLOCK: _transition({_S.BLOCKED}, _S.QUEUED, _S.SCHEDULED),
        JobEvent.RESCHEDULE: _transition(
            {_S.SCHEDULED, _S.QUEUED, _S.RETRYING}, _S.QUEUED, _S.SCHEDULED
        ),
        JobEvent.CLAIM: _transition({_S.QUEUED, _S.RETRYING}, _S.RUNNING),
        JobEvent.SUCCEED: _transition({_S.RUNNING}, _S.COMPLETED),
        JobEvent.FAIL: _transition({_S.RUNNING}, _S.RETRYING, _S.FAILED),
        JobEvent.LEASE_LOST: _transition({_S.RUNNING}, _S.RETRYING, _S.FAILED),
        JobEvent.RELEASE: _transition({_S.RUNNING}, _S.QUEUED),
        JobEvent.REQUEST_CANCEL: _transition({_S.RUNNING}, _S.RUNNING),
        JobEvent.CANCEL: _transition(WAITING | {_S.RUNNING}, _S.CANCELLED),
        JobEvent.EXPIRE: _transition(WAITING, _S.EXPIRED),
        JobEvent.RETRY: _transition({_S.FAILED, _S.CANCELLED, _S.EXPIRED}, _S.QUEUED),
    }
)


def sources(event: JobEvent) -> frozenset[JobState]:
    """The states in which `event` may happen; empty for the submission."""
    return TRANSITIONS[event].sources


def targets(*events: JobEvent) -> frozenset[JobState]:
    """The states to which any of `events` may lead."""
    return frozenset().union(*(TRANSITIONS[event].targets for event in events))


def is_legal(event: JobEvent, source: JobState | None, target: JobState) -> bool:
    """Whether `event` may lead from `source` (None: the job is new) to `target`."""
    transition = TRANSITIONS[event]
    known_source = not transition.sources if source is None else source in transition.sources
    return known_source and target in transition.targets
