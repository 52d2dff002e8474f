"""What an attempt came to: one frozen value, decided here, recorded by `finishing.finish`."""

from enum import StrEnum
from typing import Any
from uuid import UUID

from taskflow.jobs.backoff import Backoff
from taskflow.values import value_type

MAX_ERROR_MESSAGE_CHARACTERS = 4_000


class OutcomeKind(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    RETRYABLE = "retryable"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"


@value_type
class JobError:
    """Why an attempt failed, as the API shows it."""

    type: str
    message: str
    retryable: bool

    def as_dict(self) -> dict[str, Any]:
        """The public JSON object."""
        return {"type": self.type, "message": self.message, "retryable": self.retryable}


CANCELLED_WHILE_RUNNING = JobError(
    "cancelled", "The job was cancelled while it ran.", retryable=False
)


@value_type
class Attempt:
    """The right to write to a running job: who runs it, as which attempt.

    A release gives the number back, so the number alone would not tell two workers apart;
    together with the worker's id, which is new at every process start, it does.
    """

    job_id: UUID
    number: int
    worker_id: UUID


@value_type
class Outcome:
    """How an attempt ended; made by the functions below, never changed.

    `artifact_bytes` are those of what it leaves in the object store beside a result.
    """

    kind: OutcomeKind
    result_json: str | None = None
    result_object: str | None = None
    result_bytes: int | None = None
    error: JobError | None = None
    delay_seconds: float = 0.0
    artifact_bytes: int = 0


def completed(result_json: str) -> Outcome:
    """The handler returned; `result_json` is its result as JSON text."""
    size = len(result_json.encode("utf-8", "surrogatepass"))
    return Outcome(OutcomeKind.COMPLETED, result_json=result_json, result_bytes=size)


def completed_in_object(object_key: str, size_bytes: int) -> Outcome:
    """The handler returned; its result is large and lies in the object store under `object_key`."""
    return Outcome(OutcomeKind.COMPLETED, result_object=object_key, result_bytes=size_bytes)


def cancelled() -> Outcome:
    """The job was stopped because its sender asked for it."""
    return Outcome(OutcomeKind.CANCELLED, error=CANCELLED_WHILE_RUNNING)


def released() -> Outcome:
    """The worker shuts down; the job goes back to its queue and the attempt is not counted."""
    return Outcome(OutcomeKind.RELEASED)


def failed(
    error: JobError,
    *,
    failures: int,
    attempts_left: int,
    backoff: Backoff,
    random_unit: float,
    delay_seconds: float | None = None,
) -> Outcome:
    """The handler failed: retryable while the error and the budget allow it, else final.

    `failures` counts the attempts of this budget, this one included; `delay_seconds` overrides
    the backoff (a handler's own `Retry(delay_seconds=...)`).
    """
    error = JobError(
        error.type, error.message[:MAX_ERROR_MESSAGE_CHARACTERS], retryable=error.retryable
    )
    if not error.retryable or attempts_left <= 0:
        return Outcome(OutcomeKind.FAILED, error=error)
    delay = backoff.delay_seconds(failures, random_unit) if delay_seconds is None else delay_seconds
    return Outcome(OutcomeKind.RETRYABLE, error=error, delay_seconds=max(delay, 0.0))
