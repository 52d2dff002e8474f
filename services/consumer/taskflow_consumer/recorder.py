"""Recording outcomes: many in one statement, again and again until each is recorded or refused."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from taskflow.batching import Batcher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.finishing import Recorded, Stale, finish
from taskflow.jobs.holding import release
from taskflow.jobs.outcomes import Attempt, JobError, Outcome, OutcomeKind
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, JobState
from taskflow.patience import pause_seconds
from taskflow.relay import Burial, Dispatch, Relay, Sending

MAX_BATCH = 100
LONGEST_PAUSE_SECONDS = 15.0
"""Between two tries at an outcome that nobody knows how to record."""

Finished = tuple[Attempt, Outcome]
Verdict = Recorded | Stale


@dataclass(frozen=True, slots=True)
class _Unrecorded:
    """What should not happen did: this outcome alone can't be recorded now."""

    error: Exception


_UNSTORABLE = "outcome_not_storable"
_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
log = structlog.get_logger(__name__)


class Recorder:
    """Writes outcomes and sends what follows from them: a retry, a burial, a hand-over.

    While PostgreSQL is away outcomes wait in memory; the executor bounds them.
    """

    def __init__(self, database: Database, relay: Relay, *, running_quota: int = 0) -> None:
        """`running_quota`: how many jobs of a tenant run at once, if it has no quota of its own."""
        self._database = database
        self._relay = relay
        self._running_quota = running_quota
        self._batcher: Batcher[Finished, Verdict | _Unrecorded] = Batcher(
            self._write, max_items=MAX_BATCH, max_waiting=1_000_000
        )

    async def record(self, attempt: Attempt, outcome: Outcome) -> Verdict:
        """Record an outcome, however long it takes; `Stale`: the job has moved on without us.

        An error that is neither an outage nor the outcome's fault (a schema that is being changed,
        a defect) is said again and again while the outcome is held: the work is done, and to let
        go of it would be to have it done once more.
        """
        failures = 0
        while isinstance(verdict := await self._batcher.submit((attempt, outcome)), _Unrecorded):
            failures += 1
            log.error(
                "outcome_held",
                job_id=str(attempt.job_id),
                attempt=attempt.number,
                outcome=outcome.kind,
                failures=failures,
                exc_info=verdict.error,
            )
            await asyncio.sleep(pause_seconds(failures, last=LONGEST_PAUSE_SECONDS))
        return verdict

    async def close(self) -> None:
        """Return when every outcome is recorded; cancel the call to give up."""
        await self._batcher.close()

    async def _write(self, finished: Sequence[Finished]) -> Sequence[Verdict | _Unrecorded]:
        failures = 0
        while True:
            try:
                verdicts = await self._finish(finished)
            except _UNREACHABLE as error:
                failures += 1
                log.warning(
                    "outcomes_wait", count=len(finished), failures=failures, error=str(error)
                )
                await asyncio.sleep(pause_seconds(failures))
            else:
                self._relay.send(
                    sending
                    for (_, outcome), verdict in zip(finished, verdicts, strict=True)
                    if (sending := _what_follows(outcome, verdict)) is not None
                )
                await self._release_others(verdicts)
                return verdicts

    async def _release_others(self, verdicts: Sequence[Verdict | _Unrecorded]) -> None:
        """Let jobs start that these have kept waiting; if it fails the scheduler does it."""
        tenants = {
            verdict.tenant_id
            for verdict in verdicts
            if isinstance(verdict, Recorded) and verdict.tenant_is_held
        }
        if not tenants:
            return
        try:
            async with self._database.connection() as connection:
                for tenant_id in tenants:
                    released = await release(
                        connection, running_quota=self._running_quota, tenant_id=tenant_id
                    )
                    self._relay.send(Dispatch(pointer) for pointer in released)
        except _UNREACHABLE as error:
            log.warning("held_not_released", error=str(error) or type(error).__name__)

    async def _finish(self, finished: Sequence[Finished]) -> list[Verdict | _Unrecorded]:
        """Halve a batch that fails, until the one outcome that does it stands alone."""
        try:
            async with self._database.connection() as connection:
                return [*await finish(connection, finished)]
        except _UNREACHABLE:
            raise
        except Exception as error:  # noqa: BLE001 - said in full by whoever waits for the outcome
            if len(finished) == 1:
                return [await self._finish_alone(finished[0], error)]
            middle = len(finished) // 2
            first = await self._finish(finished[:middle])
            return first + await self._finish(finished[middle:])

    async def _finish_alone(self, finished: Finished, error: Exception) -> Verdict | _Unrecorded:
        attempt, outcome = finished
        if not isinstance(error, asyncpg.DataError) or (
            outcome.error is not None and outcome.error.type == _UNSTORABLE
        ):
            return _Unrecorded(error)
        problem = JobError(_UNSTORABLE, f"PostgreSQL refused the outcome: {error}", retryable=False)
        left_bytes = outcome.artifact_bytes
        failure = Outcome(OutcomeKind.FAILED, error=problem, artifact_bytes=left_bytes)
        (verdict,) = await self._finish([(attempt, failure)])
        return verdict


def _what_follows(outcome: Outcome, verdict: Verdict | _Unrecorded) -> Sending | None:
    if isinstance(verdict, Stale | _Unrecorded):
        return None
    if verdict.state is JobState.FAILED:
        return Burial(_pointer(verdict), outcome.error.type if outcome.error else "failed")
    # An answer that was lost is read from the row, which may have been claimed since.
    if verdict.state not in DISPATCHABLE or verdict.pointer_at is None:
        return None
    delay = verdict.delay_seconds if verdict.state is JobState.RETRYING else 0.0
    return Dispatch(_pointer(verdict), delay)


def _pointer(recorded: Recorded) -> Pointer:
    stamp = recorded.pointer_at or recorded.recorded_at
    return Pointer(recorded.job_id, recorded.lane, recorded.type, stamp)
