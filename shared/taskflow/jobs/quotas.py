"""How much a tenant may have, and what it has: arithmetic without a server."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, LiteralString

from taskflow.errors import QuotaExceeded
from taskflow.jobs.states import WAITING, JobState

JOB_BYTES = 2_048
"""What a job counts for beside its content and result: its rows, their history, their indexes."""

NEAR_JOBS = 2_000
NEAR_BYTES = 64 * 1024 * 1024
NEAR_SHARE = 10
"""A tenant is near its quota when less is left than a tenth of it, or than so many jobs or bytes.
From there on its submissions take turns, so that none goes beyond it. Before, they don't: so much
may be on its way into PostgreSQL at one moment, half of it the jobs of an atomic batch, whose turn
those before that point don't wait for."""


class QuotaName(StrEnum):
    """What is limited; the names are public."""

    WAITING_JOBS = "waiting_jobs"
    KEPT_BYTES = "kept_bytes"
    RUNNING_JOBS = "running_jobs"


def state_column(state: JobState) -> LiteralString:
    """The column of `tenant_usage` in which jobs of this state are counted."""
    return f"{state}_jobs"


STATE_COLUMNS: Mapping[JobState, str] = MappingProxyType(
    {state: state_column(state) for state in JobState if state is not JobState.QUEUED}
)
"""Where a tenant's jobs are counted by their states; queued is what `waiting_jobs` has beside
these."""

USAGE_COLUMNS = ("waiting_jobs", "kept_bytes", *STATE_COLUMNS.values())
"""All that is counted of a tenant, in `tenant_usage`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has, or what has become more of it.

    Jobs that wait, the bytes that are kept of all its jobs, jobs that run.
    """

    waiting_jobs: int = 0
    kept_bytes: int = 0
    running_jobs: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.waiting_jobs + other.waiting_jobs,
            self.kept_bytes + other.kept_bytes,
            self.running_jobs + other.running_jobs,
        )


# Made once: `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(ensure_ascii=False).encode


def payload_size(payload: Mapping[str, Any]) -> int:
    """The bytes that a payload counts for: of its JSON text, whether or not it is stored sealed."""
    # As PostgreSQL would write it, but for what that normalises.
    return _text_size(_encode(payload))


def attributes_size(texts: Iterable[str | None], metadata: Mapping[str, Any] | None) -> int:
    """The bytes that what is said of a job counts for: its tags, name and other texts; metadata."""
    return sum(_text_size(text) for text in texts if text) + (
        payload_size(metadata) if metadata else 0
    )


def _text_size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def jobs_by_state(sums: Mapping[str, int]) -> dict[JobState, int]:
    """How many jobs are in which state, by the sums of the columns of `tenant_usage`."""
    counts: dict[JobState, int] = {state: sums[column] for state, column in STATE_COLUMNS.items()}
    elsewhere = sum(counts[state] for state in WAITING - {JobState.QUEUED})
    counts[JobState.QUEUED] = sums["waiting_jobs"] - elsewhere
    # Negative they may be while a process of a version that doesn't count states still runs.
    return {state: max(count, 0) for state, count in counts.items()}


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most that a tenant may have; 0 is any number."""

    waiting_jobs: int = 0
    kept_bytes: int = 0

    def refusal(self, usage: Usage, kept_bytes: int, jobs: int = 1) -> QuotaExceeded | None:
        """Why no more may wait and be kept beside what is, or None."""
        waiting = usage.waiting_jobs + jobs
        if jobs and 0 < self.waiting_jobs < waiting:
            return _exceeded(QuotaName.WAITING_JOBS, self.waiting_jobs, usage.waiting_jobs)
        if 0 < self.kept_bytes < usage.kept_bytes + kept_bytes:
            return _exceeded(QuotaName.KEPT_BYTES, self.kept_bytes, usage.kept_bytes)
        return None

    def is_near(self, usage: Usage) -> bool:
        """Whether so little is left that who submits has to take turns."""
        return 0 < self.waiting_jobs < usage.waiting_jobs + _margin(
            self.waiting_jobs, NEAR_JOBS
        ) or 0 < self.kept_bytes < usage.kept_bytes + _margin(self.kept_bytes, NEAR_BYTES)


@dataclass(frozen=True, slots=True)
class DefaultQuotas:
    """The quotas of tenants that have none of their own; 0 is any number.

    `registered_kept_bytes` stands in place of `kept_bytes` where a registration made the tenant.
    """

    waiting_jobs: int = 0
    kept_bytes: int = 0
    registered_kept_bytes: int = 0


def judge(quotas: Quotas, usage: Usage, sizes: Iterable[int]) -> list[QuotaExceeded | None]:
    """For new jobs of these sizes (bytes of content), in their order: None, or why it has no room.

    Each is judged beside those before it.
    """
    answers = []
    for size in sizes:
        refusal = quotas.refusal(usage, JOB_BYTES + size)
        if refusal is None:
            usage += Usage(waiting_jobs=1, kept_bytes=JOB_BYTES + size)
        answers.append(refusal)
    return answers


def _margin(limit: int, least: int) -> int:
    return max(limit // NEAR_SHARE, least)


_ADVICE = {
    QuotaName.WAITING_JOBS: ("Its jobs that wait are as many as it may have.", 5),
    QuotaName.KEPT_BYTES: ("What is kept of its jobs leaves no room for more: delete some.", 60),
}


def _exceeded(quota: QuotaName, limit: int, use: int) -> QuotaExceeded:
    words, seconds = _ADVICE[quota]
    return QuotaExceeded(
        f"The tenant's quota {quota} is {limit}, and {use} are in use. {words}",
        quota=quota,
        limit=limit,
        use=use,
        retry_after_seconds=seconds,
    )
