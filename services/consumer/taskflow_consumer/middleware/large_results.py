"""A result that is too large for its row goes to the object store."""

import asyncio
import time

from taskflow.errors import ServiceUnavailable
from taskflow.jobs import outcomes
from taskflow.jobs.outcomes import JobError, Outcome
from taskflow.patience import pause_seconds
from taskflow.sealing.ring import Part, Place, SealingKeyRing
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run
from taskflow_consumer.ports import Artifacts


class LargeResults:
    """Stores them, and is patient: giving up means that the handler's work is done once more."""

    def __init__(
        self,
        artifacts: Artifacts,
        ring: SealingKeyRing,
        *,
        inline_bytes: int,
        patience_seconds: float,
    ) -> None:
        self._artifacts = artifacts
        self._ring = ring
        self._inline_bytes = inline_bytes
        self._patience_seconds = patience_seconds

    async def __call__(self, run: Run, next_step: Step) -> Outcome | None:
        """Put the key of an object in place of a result that is longer than `inline_bytes`."""
        outcome = await next_step(run)
        if outcome is None or outcome.result_json is None or outcome.result_bytes is None:
            return outcome
        if outcome.result_bytes <= self._inline_bytes:
            return outcome
        return await self._store(run, outcome.result_json.encode())

    async def _store(self, run: Run, body: bytes) -> Outcome | None:
        name = f"result-{run.attempt.number}.json"
        place = Place(run.job.tenant_id, run.attempt.job_id, Part.RESULT)
        stored = self._ring.seal_object(place, body)
        content_type = "application/json" if stored is body else "application/octet-stream"
        give_up_at = time.monotonic() + self._patience_seconds
        failures = 0
        while run.stop.reason is None:
            try:
                key = await self._artifacts.put(run.job, name, stored, content_type)
            except ServiceUnavailable as error:
                failures += 1
                run.write("warning", f"the result can't be stored yet: {error}", failures=failures)
                pause = pause_seconds(failures)
                if time.monotonic() + pause > give_up_at:
                    message = f"The handler returned, but its result could not be stored: {error}"
                    return run.failed(JobError("result_store_unavailable", message, retryable=True))
                await asyncio.wait({run.stop.ordered}, timeout=pause)
            else:
                return outcomes.completed_in_object(key, len(body))
        return run.outcome_of_stop(run.stop.reason)
