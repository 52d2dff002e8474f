"""What a context asks of the consumer, in the consumer's own process."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

from taskflow.jobs.attempts import ClaimedJob
from taskflow.sdk.context import AttemptLog
from taskflow.sdk.errors import JobStopped
from taskflow.sdk.progress import LatestProgress
from taskflow_consumer.middleware.stop import Stop
from taskflow_consumer.ports import Artifacts, Checkpoints, Progress

PROGRESS_INTERVAL_SECONDS = 0.5

T = TypeVar("T")


class LoopServices:
    """Brings the calls of one attempt, from whatever thread, to the loop. Born in the loop."""

    def __init__(
        self,
        job: ClaimedJob,
        *,
        log: AttemptLog,
        stop: Stop,
        artifacts: Artifacts,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        self._job = job
        self._log = log
        self._stop = stop
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._artifact_sizes: dict[str, int] = {}
        self.stop_was_seen = False

        def emit(percent: float, message: str | None) -> None:
            progress.report(job.attempt, percent, message)

        self._progress = LatestProgress(PROGRESS_INTERVAL_SECONDS, self._schedule, emit)

    @property
    def stopped(self) -> bool:
        """Whether the attempt has been told to stop; `stop_was_seen` notes that it was asked."""
        stopped = self._stop.reason is not None
        self.stop_was_seen = self.stop_was_seen or stopped
        return stopped

    @property
    def artifact_bytes(self) -> int:
        """The bytes of the artifacts that the attempt has stored; a name counts once."""
        return sum(self._artifact_sizes.values())

    def close(self) -> None:
        """The outcome is decided: pass on the last progress, and keep nothing more."""
        if not self._closed:
            self._closed = True
            self._progress.flush()

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        """Keep one line of the attempt's log."""
        self._log.write(level, message, logger, fields)

    def report_progress(self, percent: float, message: str | None) -> None:
        """Take note of how far the job has come (0 to 100)."""
        if not self._closed:
            self._progress.report(percent, message)

    def put_artifact(self, name: str, data: bytes, content_type: str) -> Future[str]:
        """Store bytes as an artifact of the job; its key."""

        async def put() -> str:
            key = await self._artifacts.put(self._job, name, data, content_type)
            self._artifact_sizes[key] = len(data)
            return key

        return self._call(put)

    def put_artifact_file(self, name: str, path: str, content_type: str) -> Future[str]:
        """Store a file as an artifact of the job; its key."""

        async def put() -> str:
            size = await asyncio.to_thread(os.path.getsize, path)
            key = await self._artifacts.put_file(self._job, name, Path(path), content_type)
            self._artifact_sizes[key] = size
            return key

        return self._call(put)

    def get_artifact(self, key: str) -> Future[bytes]:
        """An artifact's bytes."""
        return self._call(lambda: self._artifacts.get(self._job, key))

    def get_artifact_file(self, key: str, path: str) -> Future[None]:
        """Write an artifact's bytes to a file."""
        return self._call(lambda: self._artifacts.get_file(self._job, key, Path(path)))

    def save_checkpoint(self, value_json: str) -> Future[None]:
        """Store the job's checkpoint."""
        return self._call(lambda: self._checkpoints.save(self._job, value_json))

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        if self._closed:
            refused: Future[T] = Future()
            refused.set_exception(JobStopped())
            return refused
        return asyncio.run_coroutine_threadsafe(make(), self._loop)

    def _schedule(self, delay_seconds: float, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # The loop is closed: a thread has outlived it.
            # In its own context: what it sets going serves all jobs, and must not log into one.
            self._loop.call_soon_threadsafe(
                self._loop.call_later, delay_seconds, callback, context=Context()
            )
