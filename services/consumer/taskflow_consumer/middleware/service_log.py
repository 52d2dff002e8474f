"""The service's own log: a line when a job ends, and for who looks for a fault when it begins."""

from structlog.typing import FilteringBoundLogger

from taskflow.jobs.outcomes import Outcome, OutcomeKind
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run

_EVENTS = {
    OutcomeKind.COMPLETED: "job_completed",
    OutcomeKind.RETRYABLE: "job_will_retry",
    OutcomeKind.FAILED: "job_failed",
    OutcomeKind.CANCELLED: "job_cancelled",
    OutcomeKind.RELEASED: "job_released",
}


class ServiceLog:
    """Writes the lines; a job's message may hold secrets, so only the error's type is told."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log

    async def __call__(self, run: Run, next_step: Step) -> Outcome | None:
        """Say what begins, and what came of it after how many seconds."""
        attempt = run.attempt
        log = self._log
        about: dict[str, object] = {
            "job_id": str(attempt.job_id),
            "attempt": attempt.number,
            "type": run.job.type,
            "lane": run.job.lane.key,
        }
        log.debug("job_started", **about)
        outcome = await next_step(run)
        about["seconds"] = round(run.seconds, 6)
        if outcome is None:
            log.warning("job_lost", **about)
        elif outcome.error is None:
            log.info(_EVENTS[outcome.kind], **about)
        else:
            # A job that fails is the job's affair: the service is well, so this is no error of it.
            log.warning(
                _EVENTS[outcome.kind],
                **about,
                error=outcome.error.type,
                delay_seconds=outcome.delay_seconds,
            )
        return outcome
