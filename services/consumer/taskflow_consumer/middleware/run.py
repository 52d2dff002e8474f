"""One attempt on its way through the executor."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from taskflow.jobs import outcomes
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.outcomes import Attempt, JobError, Outcome
from taskflow.sdk.context import AttemptLog
from taskflow.sdk.job_type import JobType
from taskflow_consumer.isolation.services import LoopServices
from taskflow_consumer.middleware.stop import Stop, StopReason

LOGGER_NAME = "taskflow"
"""What our own lines in a job's log name as their logger."""


@dataclass(slots=True, eq=False)
class Run:
    """An attempt that this process runs now.

    `is_isolated`: its handler runs in a process of its own, by its type or because an earlier
    attempt has lost its worker. `settled` is done when the outcome is recorded, or there is none to
    record; `lingering` is the handler's task where it goes on all the same.
    """

    job: ClaimedJob
    job_type: JobType
    log: AttemptLog
    services: LoopServices
    stop: Stop
    random: random.Random
    is_isolated: bool
    settled: asyncio.Future[None]
    lingering: asyncio.Task[Outcome | None] | None = None
    started_at: float = field(default_factory=time.monotonic)

    @property
    def attempt(self) -> Attempt:
        """The right to write to the job."""
        return self.job.attempt

    @property
    def timeout_seconds(self) -> float | None:
        """How long the handler may take: what the job says, else its type."""
        if self.job.timeout_seconds is not None:
            return self.job.timeout_seconds
        return self.job_type.timeout_seconds

    @property
    def runs_in_thread(self) -> bool:
        """Whether its handler runs in a thread of this process, where nothing can interrupt it."""
        return not self.is_isolated and not self.job_type.is_async

    @property
    def is_suspect(self) -> bool:
        """Whether it runs apart for nothing but its losses."""
        return self.is_isolated and self.job_type.isolation is None

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started_at

    def write(self, level: str, message: str, **fields: object) -> None:
        """Say something in the job's own log."""
        self.log.write(level, message, LOGGER_NAME, fields)

    def failed(self, error: JobError, delay_seconds: float | None = None) -> Outcome:
        """The outcome of a failure, by the job's budget and its type's backoff."""
        return outcomes.failed(
            error,
            failures=self.job.failures_if_this_fails,
            attempts_left=self.job.attempts_left,
            backoff=self.job_type.backoff,
            random_unit=self.random.random(),
            delay_seconds=delay_seconds,
        )

    def failed_as_killer(self, death: JobError) -> Outcome:
        """The outcome of a suspect whose own process died: now its losses count as well."""
        return outcomes.failed(
            JobError(
                "worker_lost",
                f"{death.message} An earlier attempt lost its worker too: this job kills what"
                " runs it.",
                retryable=True,
            ),
            failures=self.job.failures_if_this_fails + self.job.losses,
            attempts_left=self.job.attempts_left - self.job.losses,
            backoff=self.job_type.backoff,
            random_unit=self.random.random(),
        )

    def outcome_of_stop(self, reason: StopReason) -> Outcome | None:
        """What it means for the job that its attempt was stopped; None: not ours to say."""
        match reason:
            case StopReason.TIMEOUT:
                message = f"The attempt took longer than {self.timeout_seconds:g} s."
                return self.failed(JobError("timeout", message, retryable=True))
            case StopReason.CANCEL_REQUESTED:
                return outcomes.cancelled()
            case StopReason.SHUTDOWN:
                return outcomes.released()
            case StopReason.LEASE_LOST:
                return None
