"""The innermost step: call the handler where its job type wants it, and judge its ending."""

import asyncio
import logging

from taskflow.jobs.outcomes import JobError, Outcome, completed
from taskflow.sdk.json_values import said
from taskflow.sdk.registry import Registry
from taskflow_consumer.isolation.call import Call
from taskflow_consumer.isolation.child import Errand
from taskflow_consumer.isolation.ending import Ending, Raised, Returned
from taskflow_consumer.isolation.processes import Processes
from taskflow_consumer.isolation.threads import start_in_thread
from taskflow_consumer.middleware.run import Run


class HandlerCall:
    """Calls handlers; whatever they do comes back as an outcome."""

    def __init__(self, registry: Registry, processes: Processes, result_max_bytes: int) -> None:
        self._registry = registry
        self._processes = processes
        self._result_max_bytes = result_max_bytes

    async def __call__(self, run: Run) -> Outcome | None:
        """Call the handler of `run`; its traceback goes to the job's log alone."""
        match await self._call(run):
            case Returned(result_json):
                return completed(result_json)
            case Raised(error, process_died=True) if run.is_suspect:
                outcome = run.failed_as_killer(error)
                if outcome.error is not None:
                    run.write("error", f"{outcome.error.type}: {outcome.error.message}")
                return outcome
            case Raised(error, traceback, delay_seconds):
                # The end of a handler that was told to stop has been said already.
                if run.stop.reason is None or error.type != asyncio.CancelledError.__name__:
                    fields = {} if traceback is None else {"traceback": traceback}
                    run.write("error", f"{error.type}: {error.message}", **fields)
                return run.failed(error, delay_seconds)

    async def _call(self, run: Run) -> Ending:
        if run.is_isolated:
            return await self._processes.call(self._errand(run), run.services)
        call = Call(
            job_type=run.job_type,
            job_id=run.attempt.job_id,
            attempt=run.attempt.number,
            payload_json=run.job.payload_json,
            checkpoint_json=run.job.checkpoint_json,
            services=run.services,
            result_max_bytes=self._result_max_bytes,
        )
        if run.job_type.is_async:
            return await call.run()
        try:
            return await start_in_thread(call.run_blocking, f"job-{run.attempt.job_id}")
        except RuntimeError as error:
            message = f"No thread could be started: {said(error)}"
            return Raised(JobError("worker_thread_not_started", message, retryable=True))

    def _errand(self, run: Run) -> Errand:
        return Errand(
            module=self._registry.module_of(run.job_type.name),
            job_type=run.job_type.name,
            job_id=str(run.attempt.job_id),
            attempt=run.attempt.number,
            payload_json=run.job.payload_json,
            checkpoint_json=run.job.checkpoint_json,
            result_max_bytes=self._result_max_bytes,
            memory_mib=run.job_type.memory_mib,
            log_level=logging.getLogger().getEffectiveLevel(),
        )
