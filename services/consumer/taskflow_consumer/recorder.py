"""Recording outcomes: many in one statement, again and again until each is recorded or refused."""

import asyncio
from collections.abc import Sequence

import asyncpg
import structlog

from taskflow.batching import Batcher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.finishing import Recorded, Stale, finish
from taskflow.jobs.outcomes import Attempt, JobError, Outcome, OutcomeKind
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, JobState
from taskflow.patience import pause_seconds
from taskflow.relay import Burial, Dispatch, Relay, Sending

MAX_BATCH = 100

Finished = tuple[Attempt, Outcome]
Verdict = Recorded | Stale

_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
log = structlog.get_logger(__name__)


class Recorder:
    """Writes outcomes and sends what follows from them: a retry, a burial, a hand-over.

    While PostgreSQL is away outcomes wait in memory; the slots of their jobs bound them.
    """

    def __init__(self, database: Database, relay: Relay) -> None:
        self._database = database
        self._relay = relay
        self._batcher: Batcher[Finished, Verdict] = Batcher(
            self._write, max_items=MAX_BATCH, max_waiting=1_000_000
        )

    async def record(self, attempt: Attempt, outcome: Outcome) -> Verdict:
        """Record an outcome, however long it takes; `Stale`: the job has moved on without us."""
        return await self._batcher.submit((attempt, outcome))

    async def close(self) -> None:
        """Return when every outcome is recorded; cancel the call to give up."""
        await self._batcher.close()

    async def _write(self, finished: Sequence[Finished]) -> Sequence[Verdict]:
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
                return verdicts

    async def _finish(self, finished: Sequence[Finished]) -> list[Verdict]:
        """Halve a batch that PostgreSQL refuses, until the one bad outcome stands alone."""
        try:
            async with self._database.connection() as connection:
                return await finish(connection, finished)
        except asyncpg.DataError as error:
            if len(finished) == 1:
                return await self._finish([_unstorable(finished[0], error)])
            middle = len(finished) // 2
            first = await self._finish(finished[:middle])
            return first + await self._finish(finished[middle:])


def _unstorable(finished: Finished, error: asyncpg.DataError) -> Finished:
    attempt, outcome = finished
    if outcome.kind is OutcomeKind.FAILED:
        raise error
    problem = JobError(
        "outcome_not_storable", f"PostgreSQL refused the outcome: {error}", retryable=False
    )
    return attempt, Outcome(OutcomeKind.FAILED, error=problem)


def _what_follows(outcome: Outcome, verdict: Verdict) -> Sending | None:
    if isinstance(verdict, Stale):
        return None
    stamp = verdict.pointer_at or verdict.recorded_at
    pointer = Pointer(verdict.job_id, verdict.lane, verdict.type, stamp)
    if verdict.state is JobState.FAILED:
        return Burial(pointer, outcome.error.type if outcome.error else "failed")
    # An answer that was lost is read from the row, which may have been claimed since.
    if verdict.state not in DISPATCHABLE or verdict.pointer_at is None:
        return None
    delay = verdict.delay_seconds if verdict.state is JobState.RETRYING else 0.0
    return Dispatch(pointer, delay)
