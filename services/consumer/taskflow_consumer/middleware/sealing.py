"""What a job holds is sealed at rest: opened for its handler, and its outcome sealed again."""

from dataclasses import replace

from taskflow.errors import PayloadKeyMissing, SealBroken
from taskflow.jobs.outcomes import JobError, Outcome
from taskflow.sealing.ring import Part, Place, SealingKeyRing
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run


class Sealing:
    """Whatever comes after this step knows of no seals but those of objects."""

    def __init__(self, ring: SealingKeyRing) -> None:
        self._ring = ring

    async def __call__(self, run: Run, next_step: Step) -> Outcome | None:
        """Open the job, run the next step, and seal what is to be stored of its outcome."""
        try:
            self._open(run)
        except (SealBroken, PayloadKeyMissing) as error:
            # A broken seal is found by every later attempt; a key may be another worker's.
            is_locked = isinstance(error, PayloadKeyMissing)
            problem = JobError("payload_unreadable", str(error), retryable=is_locked)
            run.write("error", f"{problem.type}: {problem.message}")
            return run.failed(problem)
        outcome = await next_step(run)
        return None if outcome is None else self._sealed(run, outcome)

    def _open(self, run: Run) -> None:
        job = run.job
        checkpoint_json = job.checkpoint_json
        if checkpoint_json is not None:
            checkpoint_json = self._ring.open_json(_place(run, Part.CHECKPOINT), checkpoint_json)
        payload_json = self._ring.open_json(_place(run, Part.PAYLOAD), job.payload_json)
        if payload_json is not job.payload_json or checkpoint_json is not job.checkpoint_json:
            run.job = replace(job, payload_json=payload_json, checkpoint_json=checkpoint_json)

    def _sealed(self, run: Run, outcome: Outcome) -> Outcome:
        result_json, error = outcome.result_json, outcome.error
        if result_json is not None:
            result_json = self._ring.seal_json(_place(run, Part.RESULT), result_json)
        if error is not None:
            message = self._ring.seal_text(_place(run, Part.ERROR), error.message)
            error = replace(error, message=message)
        if result_json is outcome.result_json and error is outcome.error:
            return outcome
        return replace(outcome, result_json=result_json, error=error)


def _place(run: Run, part: Part) -> Place:
    return Place(run.job.tenant_id, run.attempt.job_id, part)
