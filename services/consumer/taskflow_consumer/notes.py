"""Writing progress and checkpoints of running jobs, off their way."""

import asyncio

import structlog

from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.notes import ProgressNote, record_progress, save_checkpoint
from taskflow.jobs.outcomes import Attempt
from taskflow.patience import pause_seconds
from taskflow.sdk.errors import JobStopped
from taskflow.sealing.ring import Part, Place, SealingKeyRing

CHECKPOINT_PATIENCE_SECONDS = 30.0

_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
log = structlog.get_logger(__name__)


class ProgressWriter:
    """Writes the latest progress of each attempt; while one round is written the next collects.

    Progress is a courtesy: with PostgreSQL away it waits, newest value only, and delays nobody.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[Attempt, ProgressNote] = {}
        self._writing: dict[Attempt, ProgressNote] = {}
        self._round: asyncio.Future[bool] | None = None
        self._writer: asyncio.Task[None] | None = None

    def report(self, attempt: Attempt, percent: float, message: str | None) -> None:
        """Take note of an attempt's progress and return at once."""
        self._waiting[attempt] = ProgressNote(attempt, percent, message)
        if self._writer is None or self._writer.done():
            self._round = asyncio.get_running_loop().create_future()
            self._writer = asyncio.create_task(self._write(), name="progress-writer")

    def is_unsettled(self, attempt: Attempt) -> bool:
        """Whether an attempt's last report is not written yet."""
        return attempt in self._waiting or attempt in self._writing

    async def settle(self, attempt: Attempt) -> None:
        """Return when an attempt's last report is written, or a round of writing has failed."""
        while self._round is not None and self.is_unsettled(attempt):
            if not await asyncio.shield(self._round):
                return

    async def stop(self) -> None:
        """Drop what waits; a second call does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self) -> None:
        failures = 0
        while self._waiting:
            self._writing, self._waiting = self._waiting, {}
            written = await self._write_round()
            if written is None:
                failures += 1
                self._waiting = self._writing | self._waiting
            else:
                failures = 0
            self._writing = {}
            ended, self._round = self._round, asyncio.get_running_loop().create_future()
            if ended is not None:
                ended.set_result(written is True)
            if failures:
                await asyncio.sleep(pause_seconds(failures))

    async def _write_round(self) -> bool | None:
        """Whether it was written; None: it can be tried again."""
        notes = list(self._writing.values())
        try:
            async with self._database.connection() as connection:
                await record_progress(connection, notes)
        except _UNREACHABLE as error:
            log.warning("progress_waits", count=len(notes), error=str(error))
            return None
        except Exception:
            log.exception("progress_not_written", count=len(notes))
            return False
        return True


class CheckpointWriter:
    """Stores checkpoints: the handler waits until its checkpoint is safe."""

    def __init__(self, database: Database, ring: SealingKeyRing) -> None:
        self._database = database
        self._ring = ring

    async def save(self, job: ClaimedJob, value_json: str) -> None:
        """Store a checkpoint, sealed, with patience for a database that blinks.

        Raises:
            JobStopped: the job has moved on without this attempt.
            ServiceUnavailable: the database stayed away.
        """
        attempt = job.attempt
        place = Place(job.tenant_id, attempt.job_id, Part.CHECKPOINT)
        stored_json = self._ring.seal_json(place, value_json)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CHECKPOINT_PATIENCE_SECONDS
        failures = 0
        while True:
            try:
                async with self._database.connection() as connection:
                    saved = await save_checkpoint(connection, attempt, stored_json)
            except _UNREACHABLE as error:
                failures += 1
                if loop.time() >= deadline:
                    raise ServiceUnavailable("PostgreSQL", str(error)) from error
                await asyncio.sleep(pause_seconds(failures))
            else:
                if not saved:
                    log.warning(
                        "checkpoint_refused", job_id=str(attempt.job_id), attempt=attempt.number
                    )
                    raise JobStopped
                return
