"""An executor with everything that it asks for, kept where a test can see it."""

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from taskflow import job
from taskflow.errors import ObjectMissing, ServiceUnavailable
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import Recorded, Stale
from taskflow.jobs.lanes import Lane
from taskflow.jobs.outcomes import Attempt, Outcome
from taskflow.jobs.states import JobState, Priority
from taskflow.sdk.context import current_attempt_log
from taskflow.sdk.job_type import JobFunction, JobType
from taskflow.sdk.registry import Registry
from taskflow.sealing.ring import SealingKeyRing
from taskflow_consumer.executor import Executor
from taskflow_consumer.handler_chain import HandlerChain
from taskflow_testing.waiting import eventually

Body = Callable[[], Any]
Declare = Callable[[Body], JobFunction[..., Any]]
LANE = Lane("default", Priority.MEDIUM)


@dataclass(frozen=True)
class Line:
    level: str
    message: str
    logger: str
    fields: Mapping[str, Any]


@dataclass
class KeptLog:
    """An attempt's log; what comes after `close` is dropped."""

    lines: list[Line] = field(default_factory=list)
    is_closed: bool = False

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        if not self.is_closed:
            self.lines.append(Line(level, message, logger, dict(fields)))

    async def close(self) -> None:
        self.is_closed = True


class KeptLogs:
    def __init__(self) -> None:
        self.by_job: dict[UUID, KeptLog] = {}

    def open(self, job: ClaimedJob) -> KeptLog:
        return self.by_job.setdefault(job.attempt.job_id, KeptLog())


class KeptOutcomes:
    """A recorder; `gate` holds it back, `refuses` makes it call everything stale."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Attempt, Outcome]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses = False

    async def record(self, attempt: Attempt, outcome: Outcome) -> Recorded | Stale:
        await self.gate.wait()
        self.outcomes.append((attempt, outcome))
        if self.refuses:
            return Stale(attempt.job_id)
        now = datetime.now(UTC)
        return Recorded(
            job_id=attempt.job_id,
            state=JobState.COMPLETED,
            type="any",
            lane=LANE,
            pointer_at=None,
            delay_seconds=0.0,
            recorded_at=now,
            tenant_id=UUID(int=0),
            tenant_is_held=False,
        )

    def of(self, job: ClaimedJob) -> list[Outcome]:
        return [outcome for attempt, outcome in self.outcomes if attempt == job.attempt]


@dataclass
class KeptLeases:
    """`history` says "hold" with its deadline, and "drop"."""

    held: dict[Attempt, float | None] = field(default_factory=dict)
    history: list[tuple[str, float | None]] = field(default_factory=list)

    def hold(self, attempt: Attempt, deadline_seconds: float | None) -> None:
        assert attempt not in self.held, "held twice"
        self.held[attempt] = deadline_seconds
        self.history.append(("hold", deadline_seconds))

    def hold_all(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self.hold(attempt, None)

    def drop(self, attempt: Attempt) -> None:
        self.held.pop(attempt, None)
        self.history.append(("drop", None))


class KeptArtifacts:
    """A store in memory; while `outages` is above zero a write fails and lowers it."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.outages = 0

    async def put(self, job: ClaimedJob, name: str, data: bytes, content_type: str) -> str:
        if self.outages:
            self.outages -= 1
            raise ServiceUnavailable("object storage", "it is down")
        key = f"artifacts/{job.tenant_id}/2026-01-01/{job.attempt.job_id}/{name}"
        self.objects[key] = (data, content_type)
        return key

    async def put_file(self, job: ClaimedJob, name: str, path: Path, content_type: str) -> str:
        return await self.put(job, name, path.read_bytes(), content_type)

    async def get(self, job: ClaimedJob, key: str) -> bytes:
        if key not in self.objects or str(job.tenant_id) not in key:
            raise ObjectMissing(key)
        return self.objects[key][0]

    async def get_file(self, job: ClaimedJob, key: str, path: Path) -> None:
        path.write_bytes(await self.get(job, key))


@dataclass
class KeptProgress:
    reports: list[tuple[float, str | None]] = field(default_factory=list)
    attempts: set[Attempt] = field(default_factory=set)
    logs_of_jobs: list[object] = field(default_factory=list)

    def report(self, attempt: Attempt, percent: float, message: str | None) -> None:
        self.logs_of_jobs.append(current_attempt_log.get())
        asyncio.get_running_loop()  # the real one needs to be called in the loop's thread
        self.attempts.add(attempt)
        self.reports.append((percent, message))

    def is_unsettled(self, _: Attempt) -> bool:
        """Nothing waits: reports are kept at once."""
        return False

    async def settle(self, attempt: Attempt) -> None: ...


@dataclass
class KeptCheckpoints:
    saved: list[str] = field(default_factory=list)
    attempts: set[Attempt] = field(default_factory=set)
    is_away: bool = False

    async def save(self, job: ClaimedJob, value_json: str) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise ServiceUnavailable("PostgreSQL", "it stayed away")
        self.attempts.add(job.attempt)
        self.saved.append(value_json)


class Harness:
    """Builds executors and claims, and knows what became of them."""

    def __init__(self) -> None:
        self.worker_id = uuid4()
        self.recorder = KeptOutcomes()
        self.leases = KeptLeases()
        self.logs = KeptLogs()
        self.artifacts = KeptArtifacts()
        self.progress = KeptProgress()
        self.checkpoints = KeptCheckpoints()
        self.service_lines: list[Mapping[str, Any]] = []
        self.executors: list[Executor] = []
        self.chains: list[HandlerChain] = []

    def executor(
        self,
        jobs: Iterable[JobFunction[..., Any] | JobType] | Registry,
        *,
        concurrency: int = 4,
        **settings: Any,
    ) -> Executor:
        """An executor for these jobs."""
        registry = (
            jobs
            if isinstance(jobs, Registry)
            else Registry([job if isinstance(job, JobType) else job.job_type for job in jobs])
        )
        log = structlog.wrap_logger(None, processors=[self._keep_line])
        chain = HandlerChain(
            registry,
            leases=self.leases,
            artifacts=self.artifacts,
            log=log,
            **{
                "ring": SealingKeyRing({}),
                "result_inline_bytes": 64 * 1024,
                "result_max_bytes": 1024 * 1024,
                "stop_grace_seconds": 0.3,
                **settings,
            },
        )
        executor = Executor(
            registry,
            chain.run,
            recorder=self.recorder,
            leases=self.leases,
            log_shipper=self.logs,
            artifacts=self.artifacts,
            checkpoints=self.checkpoints,
            progress=self.progress,
            log=log,
            random=random.Random(7),
            concurrency=concurrency,
        )
        self.chains.append(chain)
        self.executors.append(executor)
        return executor

    def _keep_line(self, _: object, __: str, event: Any) -> Any:
        self.service_lines.append(dict(event))
        raise structlog.DropEvent

    def claim(
        self,
        job_type: str,
        payload: object = None,
        *,
        number: int = 1,
        timeout_seconds: float | None = None,
        max_attempts: int = 4,
        checkpoint: object = None,
        losses: int = 0,
    ) -> ClaimedJob:
        """A job that this worker has claimed."""
        return ClaimedJob(
            attempt=Attempt(uuid4(), number, self.worker_id),
            tenant_id=uuid4(),
            type=job_type,
            lane=LANE,
            payload_json=json.dumps({} if payload is None else payload),
            checkpoint_json=None if checkpoint is None else json.dumps(checkpoint),
            timeout_seconds=timeout_seconds,
            max_attempts=max_attempts,
            attempt_limit=max_attempts + losses,
            losses=losses,
            created_at=datetime.now(UTC),
            started_at=datetime.now(UTC),
        )

    async def run(self, executor: Executor, job: ClaimedJob, timeout: float = 15.0) -> Outcome:
        """Start a job; its outcome."""
        executor.start(job)
        return await self.outcome(job, timeout)

    async def outcome(self, job: ClaimedJob, timeout: float = 15.0) -> Outcome:
        """The one outcome of a job."""
        outcomes: list[Outcome] = await until(lambda: self.recorder.of(job), timeout)
        (outcome,) = outcomes
        return outcome

    def lines(self, job: ClaimedJob) -> list[Line]:
        """What is in a job's log."""
        return self.logs.by_job[job.attempt.job_id].lines

    def text(self, job: ClaimedJob) -> str:
        """A job's log, its tracebacks included."""
        return "\n".join(f"{line.message} {line.fields}" for line in self.lines(job))

    def events(self) -> list[str]:
        """The events of the service's own log."""
        return [line["event"] for line in self.service_lines]


def as_async(body: Body) -> JobFunction[..., Any]:
    """An `async def` job that does what `body` does."""

    @job("subject")
    async def subject() -> Any:
        await asyncio.sleep(0)
        return body()

    return subject


def as_def(body: Body) -> JobFunction[..., Any]:
    """A `def` job that does what `body` does."""

    @job("subject")
    def subject() -> Any:
        return body()

    return subject


async def outcome_of(harness: Harness, declared: JobFunction[..., Any]) -> tuple[Outcome, str]:
    """Run such a job once; its outcome and what is in its log."""
    executor = harness.executor([declared])
    claimed = harness.claim("subject")
    outcome = await harness.run(executor, claimed)
    await until(lambda: not executor.in_hand)
    return outcome, harness.text(claimed)


async def until(look: Callable[[], Any], timeout: float = 15.0) -> Any:
    """What `look` finds, as soon as it finds something."""

    async def find() -> Any:
        return look()

    return await eventually(find, timeout=timeout, pause=0.01)
