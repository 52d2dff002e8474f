"""How much a tenant may have, and what it has: arithmetic without a server."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from taskflow.errors import QuotaExceeded
from taskflow.jobs.states import WAITING, JobState

NEAR_JOBS = 1_000
NEAR_BYTES = 64 * 1024 * 1024
NEAR_SHARE = 10
"""A tenant is near its quota when less is left than a tenth of it, or than so many jobs or bytes.
From there on its submissions take turns, so that none goes beyond it. Before, they don't: so much
may be on its way into PostgreSQL at one moment."""


class QuotaName(StrEnum):
    """What is limited; the names are public."""

    WAITING_JOBS = "waiting_jobs"
    PAYLOAD_BYTES = "payload_bytes"
    RUNNING_JOBS = "running_jobs"
    RESULT_BYTES = "result_bytes"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has, or what has become more of it.

    Jobs that wait, the bytes of their payloads, jobs that run, bytes of results that are kept.
    """

    waiting_jobs: int = 0
    payload_bytes: int = 0
    running_jobs: int = 0
    result_bytes: int = 0

    def __bool__(self) -> bool:
        return self != Usage()

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.waiting_jobs + other.waiting_jobs,
            self.payload_bytes + other.payload_bytes,
            self.running_jobs + other.running_jobs,
            self.result_bytes + other.result_bytes,
        )


def payload_size(payload: Mapping[str, Any]) -> int:
    """The bytes that a payload counts for: of its JSON text, whether or not it is stored sealed."""
    # As PostgreSQL would write it, but for what that normalises.
    return len(json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def moved(source: str | None, target: str | None, payload_bytes: int) -> Usage:
    """What a job's step from one state to another changes."""
    waits = (target in WAITING) - (source in WAITING)
    runs = (target == JobState.RUNNING) - (source == JobState.RUNNING)
    return Usage(waits, waits * payload_bytes, runs)


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most that a tenant may have; 0 is any number."""

    waiting_jobs: int = 0
    payload_bytes: int = 0
    running_jobs: int = 0
    result_bytes: int = 0

    def refusal(self, usage: Usage, payload_bytes: int, jobs: int = 1) -> QuotaExceeded | None:
        """Why no more may wait beside what does, or None."""
        waiting = usage.waiting_jobs + jobs
        if jobs and 0 < self.waiting_jobs < waiting:
            return _exceeded(QuotaName.WAITING_JOBS, self.waiting_jobs, usage.waiting_jobs)
        if 0 < self.payload_bytes < usage.payload_bytes + payload_bytes:
            return _exceeded(QuotaName.PAYLOAD_BYTES, self.payload_bytes, usage.payload_bytes)
        if 0 < self.result_bytes <= usage.result_bytes:
            return _exceeded(QuotaName.RESULT_BYTES, self.result_bytes, usage.result_bytes)
        return None

    def is_near(self, usage: Usage) -> bool:
        """Whether so little is left that who submits has to take turns."""
        return (
            0 < self.waiting_jobs < usage.waiting_jobs + _margin(self.waiting_jobs, NEAR_JOBS)
            or 0
            < self.payload_bytes
            < usage.payload_bytes + _margin(self.payload_bytes, NEAR_BYTES)
            or 0 < self.result_bytes <= usage.result_bytes
        )


def judge(quotas: Quotas, usage: Usage, payload_sizes: Iterable[int]) -> list[QuotaExceeded | None]:
    """For each of these jobs, in their order: None, it fits beside those before it; or why not."""
    answers = []
    for size in payload_sizes:
        refusal = quotas.refusal(usage, size)
        if refusal is None:
            usage += Usage(waiting_jobs=1, payload_bytes=size)
        answers.append(refusal)
    return answers


def _margin(limit: int, least: int) -> int:
    return max(limit // NEAR_SHARE, least)


_ADVICE = {
    QuotaName.WAITING_JOBS: ("Its jobs that wait are as many as it may have.", 5),
    QuotaName.PAYLOAD_BYTES: ("The payloads of its waiting jobs leave no room for this one.", 5),
    QuotaName.RESULT_BYTES: ("The results that are kept for it are too large: delete jobs.", 60),
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
