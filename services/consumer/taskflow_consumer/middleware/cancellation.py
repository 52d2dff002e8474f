"""The end of an attempt that is told to stop, whether its handler obeys or not."""

import asyncio
from typing import Any

from taskflow.jobs.outcomes import Outcome
from taskflow_consumer.isolation.contained_exits import begin
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run
from taskflow_consumer.middleware.stop import StopReason

_WORDS = {
    StopReason.TIMEOUT: "its time is up",
    StopReason.CANCEL_REQUESTED: "a cancel was asked for",
    StopReason.LEASE_LOST: "another worker has the job now",
    StopReason.SHUTDOWN: "the consumer shuts down",
}


class Cancellation:
    """Waits for the handler or for the order to stop, whichever comes first.

    A handler that is told to stop gets `grace_seconds` to clean up. Then the outcome stands; a
    handler that goes on regardless keeps its slot, and what it returns is ignored.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds

    async def __call__(self, run: Run, next_step: Step) -> Outcome | None:
        """Run the next step until it ends or has to."""
        if run.stop.reason is not None:
            return run.outcome_of_stop(run.stop.reason)
        handler = begin(next_step(run))
        if handler.done():
            return handler.result()
        try:
            await _first_of(handler, run.stop.ordered)
            if handler.done():
                return handler.result()
            reason = run.stop.ordered.result()
            await self._stop(run, handler, reason)
            if reason is StopReason.SHUTDOWN and _is_genuine(run, handler):
                return handler.result()
            return run.outcome_of_stop(reason)
        finally:
            if run.lingering is None:
                handler.cancel()

    async def _stop(
        self, run: Run, handler: "asyncio.Task[Outcome | None]", reason: StopReason
    ) -> None:
        run.write("warning", f"stopped: {_WORDS[reason]}")
        grace_seconds = self._grace_seconds
        if not run.runs_in_thread:
            handler.cancel()
        elif reason is StopReason.TIMEOUT:
            # A thread can't be interrupted, only told; and this one has had its time.
            grace_seconds = 0.0
        await asyncio.wait({handler}, timeout=grace_seconds)
        if not handler.done():
            run.lingering = handler
            run.write("warning", "the handler goes on regardless and keeps its slot until it ends")


async def _first_of(*either: asyncio.Future[Any]) -> None:
    """As `asyncio.wait`, which takes more than twice as long."""
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not first.done():
            first.set_result(None)

    for each in either:
        each.add_done_callback(wake)
    await first


def _is_genuine(run: Run, handler: "asyncio.Task[Outcome | None]") -> bool:
    """Whether a handler came to its own end in the time that it was given to clean up.

    A thread that has not looked whether it is to stop does not know that it was told so: what it
    returns is all of its work, which would be done once more for nothing.
    """
    return run.runs_in_thread and handler.done() and not run.services.stop_was_seen
