"""The time that a job's handler may take."""

import asyncio

from taskflow.jobs.outcomes import Outcome
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run
from taskflow_consumer.middleware.stop import StopReason
from taskflow_consumer.ports import Leases


class Timeout:
    """Orders the stop when the time is up.

    A handler that holds the interpreter's lock also stops this loop's clock. So the keeper of the
    leases is given a deadline too, some seconds later, and takes it back when the handler ends.
    """

    def __init__(self, leases: Leases, hang_after_seconds: float) -> None:
        self._leases = leases
        self._hang_after_seconds = hang_after_seconds

    async def __call__(self, run: Run, next_step: Step) -> Outcome | None:
        """Run the next step against the clock."""
        seconds = run.timeout_seconds
        if seconds is None:
            return await next_step(run)
        # An isolated handler runs in a process of its own, whatever it does there.
        if not run.is_isolated:
            self._hold(run, seconds + self._hang_after_seconds)
        alarm = asyncio.get_running_loop().call_later(seconds, run.stop.order, StopReason.TIMEOUT)
        try:
            return await next_step(run)
        finally:
            alarm.cancel()
            self._hold(run, None)

    def _hold(self, run: Run, deadline_seconds: float | None) -> None:
        self._leases.drop(run.attempt)
        self._leases.hold(run.attempt, deadline_seconds)
