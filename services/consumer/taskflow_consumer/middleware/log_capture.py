"""Ordinary `logging` inside a job goes to the job's log."""

from taskflow.jobs.outcomes import Outcome
from taskflow.sdk.context import current_attempt_log
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run


async def log_capture(run: Run, next_step: Step) -> Outcome | None:
    """Name the attempt's log to whatever is called from here on, threads and tasks included."""
    token = current_attempt_log.set(run.log)
    try:
        return await next_step(run)
    finally:
        current_attempt_log.reset(token)
