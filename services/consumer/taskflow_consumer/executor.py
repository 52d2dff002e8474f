"""Runs claimed jobs, each in a task of its own, from its claim to its recorded outcome."""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import Stale
from taskflow.jobs.outcomes import Outcome
from taskflow.sdk.registry import Registry
from taskflow_consumer.isolation.contained_exits import contain_exits
from taskflow_consumer.isolation.services import LoopServices
from taskflow_consumer.middleware.chain import Step
from taskflow_consumer.middleware.run import Run
from taskflow_consumer.middleware.stop import Stop, StopReason
from taskflow_consumer.ports import Artifacts, Checkpoints, Leases, LogShipper, Progress, Recorder

PROGRESS_PATIENCE_SECONDS = 1.0
"""How long an outcome waits for the last word on a job's progress."""
SUSPECTS_ISOLATED = 32
"""How many jobs that have lost a worker are run apart at a time: each takes a process."""
LEAVE_SECONDS = 1.0
"""What a supervisor may take to end that is given up."""


class Executor:
    """Supervises the attempts of this process. Born in the loop.

    At most `concurrency` handlers run at a time: when one is over the next may have its slot while
    the outcome is being recorded, so that neither this process nor PostgreSQL waits for the other.
    At most twice as many attempts are in hand.

    `run_handler` takes an attempt to its outcome. `started`: how many attempts were begun so far;
    `refused`: of how many the outcome was refused as stale.
    """

    def __init__(
        self,
        registry: Registry,
        run_handler: Step,
        *,
        recorder: Recorder,
        leases: Leases,
        log_shipper: LogShipper,
        artifacts: Artifacts,
        checkpoints: Checkpoints,
        progress: Progress,
        log: FilteringBoundLogger,
        random: random.Random,
        concurrency: int,
    ) -> None:
        self.concurrency = concurrency
        self._registry = registry
        self._run_handler = run_handler
        self._recorder = recorder
        self._leases = leases
        self._log_shipper = log_shipper
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._progress = progress
        self._log = log
        self._random = random
        self.started = 0
        self.refused = 0
        self._runs: dict[asyncio.Task[None], Run] = {}
        self._in_slots: set[Run] = set()
        self._on_freed: Callable[[], None] = lambda: None
        self._draining = False
        contain_exits()

    @property
    def free(self) -> int:
        """How many more jobs may be started."""
        free_slots = self.concurrency - len(self._in_slots)
        return max(0, min(free_slots, 2 * self.concurrency - self.in_hand))

    @property
    def in_hand(self) -> int:
        """How many attempts have a handler that runs, or an outcome that is not recorded yet."""
        return len(self._runs)

    @property
    def lingering(self) -> int:
        """How many handlers go on after the outcome of their attempt: each keeps its slot."""
        return sum(run.lingering is not None for run in self._runs.values())

    def notify_freed(self, on_freed: Callable[[], None]) -> None:
        """Have `on_freed` called whenever `free` may have grown. One listens."""
        self._on_freed = on_freed

    async def wait_settled(self) -> None:
        """Return when every outcome is recorded, of jobs that begin meanwhile as well."""
        while unsettled := [run.settled for run in self._unsettled()]:
            await asyncio.wait(unsettled)

    def start(self, *jobs: ClaimedJob) -> None:
        """Run jobs that this process has claimed; once draining has begun, hand them back."""
        self._leases.hold_all([job.attempt for job in jobs])
        for job in jobs:
            self._start(job)

    def _start(self, job: ClaimedJob) -> None:
        self.started += 1
        run = self._new_run(job)
        self._in_slots.add(run)
        if self._draining:
            run.stop.order(StopReason.SHUTDOWN)
        # The one strong reference to the task: nothing but `drain` ever cancels it.
        task = asyncio.create_task(self._supervise(run), name=f"job-{job.attempt.job_id}")
        self._runs[task] = run
        task.add_done_callback(self._forget)

    def cancel(self, job_id: UUID, attempt_number: int, reason: StopReason) -> bool:
        """Tell an attempt to stop; whether it was still running.

        What comes of it is recorded like any other outcome, or not at all if its lease is lost.
        """
        for run in self._unsettled():
            if (run.attempt.job_id, run.attempt.number) == (job_id, attempt_number):
                run.stop.order(reason)
                return True
        return False

    async def drain(self, grace_seconds: float, release_seconds: float = 10.0) -> None:
        """Let the jobs finish for so long, hand back the rest, and end.

        `release_seconds` bounds what comes after the grace: handlers that clean up, outcomes that
        are recorded. A second call, at the same time or later, may only shorten it.
        """
        self._draining = True
        await self._settle_within(grace_seconds)
        for run in self._unsettled():
            run.stop.order(StopReason.SHUTDOWN)
        await self._settle_within(release_seconds)
        for run in self._runs.values():
            self._log.warning(
                "job_left_behind",
                job_id=str(run.attempt.job_id),
                attempt=run.attempt.number,
                recorded=run.settled.done(),
            )
        await _cancel(self._runs)

    async def _supervise(self, run: Run) -> None:
        try:
            await self._execute(run)
        except Exception:  # noqa: BLE001 - said in full, and one job must not end the others
            # A defect of ours. The lease runs out, and the job is given to whoever can.
            self._log.exception(
                "job_supervision_failed",
                job_id=str(run.attempt.job_id),
                attempt=run.attempt.number,
            )
        finally:
            self._leases.drop(run.attempt)
            run.services.close()
            run.settled.set_result(None)
            await self._see_off(run)

    async def _execute(self, run: Run) -> None:
        outcome = await self._run_handler(run)
        if run.lingering is None:
            self._free_slot(run)
        run.services.close()
        if outcome is None:
            return
        if run.services.artifact_bytes:
            outcome = replace(outcome, artifact_bytes=run.services.artifact_bytes)
        # Progress is written to running jobs only, so the last report goes first; but it is a
        # courtesy, and the outcome is none.
        if self._progress.is_unsettled(run.attempt):
            with suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_PATIENCE_SECONDS):
                    await self._progress.settle(run.attempt)
        recorded = await self._recorder.record(run.attempt, outcome)
        if isinstance(recorded, Stale):
            self.refused += 1
            self._log.warning(
                "job_outcome_refused",
                job_id=str(run.attempt.job_id),
                attempt=run.attempt.number,
                outcome=outcome.kind,
                refused=self.refused,
            )

    async def _see_off(self, run: Run) -> None:
        """Keep the slot, and the log open, for as long as the handler goes on."""
        try:
            if run.lingering is not None:
                await self._outlast(run, run.lingering)
        finally:
            await run.log.close()

    async def _outlast(self, run: Run, handler: "asyncio.Task[Outcome | None]") -> None:
        log = self._log.bind(job_id=str(run.attempt.job_id), attempt=run.attempt.number)
        log.warning("handler_goes_on", type=run.job.type, lingering=self.lingering)
        try:
            await asyncio.wait({handler})
            log.info("handler_ended_late", type=run.job.type, seconds=round(run.seconds, 6))
        finally:
            handler.cancel()

    def _new_run(self, job: ClaimedJob) -> Run:
        job_type = self._registry[job.type]
        log, stop = self._log_shipper.open(job), Stop()
        return Run(
            job=job,
            job_type=job_type,
            log=log,
            services=LoopServices(
                job,
                log=log,
                stop=stop,
                artifacts=self._artifacts,
                checkpoints=self._checkpoints,
                progress=self._progress,
            ),
            stop=stop,
            random=self._random,
            is_isolated=job_type.isolation == "process" or self._is_to_be_isolated(job),
            settled=asyncio.get_running_loop().create_future(),
        )

    def _is_to_be_isolated(self, job: ClaimedJob) -> bool:
        """Whether a job is a suspect: a worker was lost under it, and no other shall be."""
        if not job.losses:
            return False
        suspects = sum(run.is_suspect for run in self._in_slots)
        return suspects < SUSPECTS_ISOLATED and self._registry.can_isolate(job.type)

    def _unsettled(self) -> list[Run]:
        return [run for run in self._runs.values() if not run.settled.done()]

    async def _settle_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (unsettled := self._unsettled()) and loop.time() < deadline:
            waits = [run.settled for run in unsettled]
            await asyncio.wait(waits, timeout=deadline - loop.time())

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._free_slot(self._runs.pop(task))

    def _free_slot(self, run: Run) -> None:
        self._in_slots.discard(run)
        self._on_freed()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
