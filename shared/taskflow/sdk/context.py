"""What a handler knows of its attempt and can ask for: `JobContext`, and its blocking sister.

Both talk to the consumer through `AttemptServices` alone. It has one implementation in the
consumer's process and one in an isolated child, which passes every call on through a pipe.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Generator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from taskflow.sdk.job_log import JobLogger
from taskflow.sdk.json_values import encode_json

MAX_CHECKPOINT_BYTES = 1024 * 1024
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_RESERVED_NAME = re.compile(r"result-\d+\.json")


class AttemptLog(Protocol):
    """Takes the lines of one attempt; the consumer supplies it."""

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        """Keep one line. Any thread may call it, and it never waits.

        `level` is one of debug, info, warning, error and critical. A line that comes after
        `close` is dropped.
        """

    async def close(self) -> None:
        """The attempt logs no more. Doesn't wait for the object store."""


current_attempt_log: ContextVar[AttemptLog | None] = ContextVar("current_attempt_log", default=None)
"""The log of the attempt that this code runs for; ordinary `logging` inside a job goes there."""


class AttemptServices(Protocol):
    """What a context asks of the consumer. Any thread may call; a future is a call under way.

    The calls that store something raise `JobStopped`, or end their future with it, once the
    attempt's outcome is decided.
    """

    @property
    def stopped(self) -> bool:
        """Whether the attempt has been told to stop."""

    def write(self, level: str, message: str, logger: str, fields: Mapping[str, Any]) -> None:
        """Keep one line of the attempt's log."""

    def report_progress(self, percent: float, message: str | None) -> None:
        """Take note of how far the job has come (0 to 100)."""

    def put_artifact(self, name: str, data: bytes, content_type: str) -> Future[str]:
        """Store bytes as an artifact of the job; its key."""

    def put_artifact_file(self, name: str, path: str, content_type: str) -> Future[str]:
        """Store a file as an artifact of the job; its key."""

    def get_artifact(self, key: str) -> Future[bytes]:
        """An artifact's bytes."""

    def get_artifact_file(self, key: str, path: str) -> Future[None]:
        """Write an artifact's bytes to a file."""

    def save_checkpoint(self, value_json: str) -> Future[None]:
        """Store the job's checkpoint."""


class Given:
    """An awaitable that has its value already; to await it gives the loop a turn."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class _Attempt:
    """What both contexts have in common."""

    def __init__(self, job_id: UUID, attempt: int, services: AttemptServices) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.log = JobLogger(services)
        self._services = services

    @property
    def cancelled(self) -> bool:
        """Whether the attempt has been told to stop; what its handler returns then is ignored.

        That is: a cancel was asked for, the time is up, the consumer shuts down, or the job was
        given to another worker. A `def` handler that runs for long should look now and then.
        """
        return self._services.stopped


class JobContext(_Attempt):
    """An attempt as an `async def` handler sees it.

    `job_id` UUID, `attempt` (1 for the first), `log`, `progress()`, `cancelled`, `artifacts`,
    `checkpoint`.
    """

    def __init__(
        self, job_id: UUID, attempt: int, services: AttemptServices, checkpoint_json: str | None
    ) -> None:
        super().__init__(job_id, attempt, services)
        self.artifacts = Artifacts(services)
        self.checkpoint = Checkpoint(services, checkpoint_json)

    def progress(self, percent: float, message: str | None = None) -> Awaitable[None]:
        """Say how far the job has come, as often as you like; awaiting it is optional.

        Raises:
            ValueError: `percent` is no number within 0 and 100.
        """
        self._services.report_progress(percent, message)
        return Given()


class SyncJobContext(_Attempt):
    """An attempt as a `def` handler sees it: the same names, blocking."""

    def __init__(
        self, job_id: UUID, attempt: int, services: AttemptServices, checkpoint_json: str | None
    ) -> None:
        super().__init__(job_id, attempt, services)
        self.artifacts = SyncArtifacts(services)
        self.checkpoint = SyncCheckpoint(services, checkpoint_json)

    def progress(self, percent: float, message: str | None = None) -> None:
        """Say how far the job has come, as often as you like.

        Raises:
            ValueError: `percent` is no number within 0 and 100.
        """
        self._services.report_progress(percent, message)


class Artifacts:
    """Files that a job takes in or leaves behind, in the object store.

    A name is a relative path without `.` or `..`; a key is what `put` answered, of this job or,
    within the tenant, of another.

    Every method raises InvalidContent for a bad name, ObjectMissing for a key that isn't there,
    ServiceUnavailable when the store doesn't answer, JobStopped once the attempt is over.
    """

    def __init__(self, services: AttemptServices) -> None:
        self._services = services

    async def put(self, name: str, data: bytes, content_type: str = DEFAULT_CONTENT_TYPE) -> str:
        """Store `data`; the artifact's key. The same name again replaces it."""
        call = self._services.put_artifact(_free_name(name), _as_bytes(data), content_type)
        return await asyncio.wrap_future(call)

    async def put_file(
        self, name: str, path: str | os.PathLike[str], content_type: str = DEFAULT_CONTENT_TYPE
    ) -> str:
        """Store the file at `path`; the artifact's key."""
        call = self._services.put_artifact_file(_free_name(name), _absolute(path), content_type)
        return await asyncio.wrap_future(call)

    async def get(self, key: str) -> bytes:
        """The bytes of an artifact."""
        return await asyncio.wrap_future(self._services.get_artifact(key))

    async def get_file(self, key: str, path: str | os.PathLike[str]) -> None:
        """Write an artifact to the file at `path`."""
        await asyncio.wrap_future(self._services.get_artifact_file(key, _absolute(path)))


class SyncArtifacts:
    """`Artifacts`, blocking."""

    def __init__(self, services: AttemptServices) -> None:
        self._services = services

    def put(self, name: str, data: bytes, content_type: str = DEFAULT_CONTENT_TYPE) -> str:
        """Store `data`; the artifact's key. The same name again replaces it."""
        name, data = _free_name(name), _as_bytes(data)
        return self._services.put_artifact(name, data, content_type).result()

    def put_file(
        self, name: str, path: str | os.PathLike[str], content_type: str = DEFAULT_CONTENT_TYPE
    ) -> str:
        """Store the file at `path`; the artifact's key."""
        name, path = _free_name(name), _absolute(path)
        return self._services.put_artifact_file(name, path, content_type).result()

    def get(self, key: str) -> bytes:
        """The bytes of an artifact."""
        return self._services.get_artifact(key).result()

    def get_file(self, key: str, path: str | os.PathLike[str]) -> None:
        """Write an artifact to the file at `path`."""
        self._services.get_artifact_file(key, _absolute(path)).result()


class Checkpoint:
    """What a job remembers from attempt to attempt: one JSON value."""

    def __init__(self, services: AttemptServices, value_json: str | None) -> None:
        self._services = services
        self.value: Any = None if value_json is None else json.loads(value_json)

    async def save(self, value: object) -> None:
        """Store `value` in place of the last one.

        Raises:
            NotJson: it is no JSON, or larger than `MAX_CHECKPOINT_BYTES`.
            JobStopped: the attempt is over.
        """
        text = _checkpoint_json(value)
        await asyncio.wrap_future(self._services.save_checkpoint(text))
        self.value = json.loads(text)


class SyncCheckpoint:
    """`Checkpoint`, blocking."""

    def __init__(self, services: AttemptServices, value_json: str | None) -> None:
        self._services = services
        self.value: Any = None if value_json is None else json.loads(value_json)

    def save(self, value: object) -> None:
        """Store `value` in place of the last one; errors as `Checkpoint.save`."""
        text = _checkpoint_json(value)
        self._services.save_checkpoint(text).result()
        self.value = json.loads(text)


def _checkpoint_json(value: object) -> str:
    return encode_json(value, max_bytes=MAX_CHECKPOINT_BYTES)


def _free_name(name: str) -> str:
    if _RESERVED_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is kept for a large result; give the artifact another name")
    return name


def _as_bytes(data: bytes) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"an artifact is stored from bytes, not {type(data).__name__}")
    return bytes(data)


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).absolute())
