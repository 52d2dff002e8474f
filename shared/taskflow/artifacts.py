"""Files of jobs in the object store: what a handler leaves behind, and results that are large."""

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from taskflow.errors import InvalidContent, ObjectMissing
from taskflow.jobs.attempts import ClaimedJob
from taskflow.object_store import ObjectStore

MAX_NAME_CHARACTERS = 512
# What S3 and the file systems under many an S3 server can take.
_MAX_NAME_BYTES = 768
_MAX_SEGMENT_BYTES = 255
_SEGMENT = re.compile(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+")

_KEY = re.compile(
    r"artifacts/(?P<tenant>[0-9a-f-]{36})/\d{4}-\d{2}-\d{2}/[0-9a-f-]{36}/(?:\d+/)?(?P<name>.+)",
    re.DOTALL,
)


class ArtifactStore:
    """Artifacts by job for writing, by key within a tenant for reading.

    Every method but those that say more raises ServiceUnavailable alone.
    """

    def __init__(self, object_store: ObjectStore) -> None:
        self._object_store = object_store

    async def put(self, job: ClaimedJob, name: str, data: bytes, content_type: str) -> str:
        """Store bytes under the attempt's own prefix, over an artifact of that name; the key.

        A worker that comes back late, when another attempt runs, overwrites nothing of that one.

        Raises:
            InvalidContent: `name` is no relative path, or too long.
        """
        key = _attempt_prefix(job) + _checked(name)
        await self._object_store.put(key, data, content_type)
        return key

    async def put_file(self, job: ClaimedJob, name: str, path: Path, content_type: str) -> str:
        """Store a file; as `put` else.

        Raises:
            InvalidContent: `name` is no relative path, or too long.
            OSError: the file can't be read.
        """
        key = _attempt_prefix(job) + _checked(name)
        await self._object_store.upload(key, path, content_type)
        return key

    async def get(self, job: ClaimedJob, key: str) -> bytes:
        """The bytes of an artifact of the job's tenant.

        Raises:
            ObjectMissing: there is none, or it is another tenant's.
        """
        return await self.read(job.tenant_id, key)

    async def get_file(self, job: ClaimedJob, key: str, path: Path) -> None:
        """Write an artifact of the job's tenant to a file, which stays as it is on an error.

        Raises:
            ObjectMissing: there is none, or it is another tenant's.
            OSError: the file can't be written.
        """
        await self._object_store.download(_owned(job.tenant_id, key), path)

    async def read(self, tenant_id: UUID, key: str) -> bytes:
        """The bytes of a tenant's artifact.

        Raises:
            ObjectMissing: there is none, or it is another tenant's.
        """
        return await self._object_store.get(_owned(tenant_id, key))

    async def delete_job(self, tenant_id: UUID, job_id: UUID, created_at: datetime) -> None:
        """Delete whatever a job stored; again does no harm."""
        await self._object_store.delete_prefix(_job_prefix(tenant_id, job_id, created_at))


def _attempt_prefix(job: ClaimedJob) -> str:
    prefix = _job_prefix(job.tenant_id, job.attempt.job_id, job.created_at)
    return f"{prefix}{job.attempt.number}/"


def _job_prefix(tenant_id: UUID, job_id: UUID, created_at: datetime) -> str:
    return f"artifacts/{tenant_id}/{created_at.astimezone(UTC).date().isoformat()}/{job_id}/"


def _checked(name: str) -> str:
    if not _is_relative_path(name):
        raise InvalidContent(
            "An artifact's name must be a relative path without '.', '..', a backslash or control"
            f" characters, of at most {MAX_NAME_CHARACTERS} characters and {_MAX_NAME_BYTES} bytes,"
            f" {_MAX_SEGMENT_BYTES} bytes between two slashes.",
            [("/name", f"{name[:100]!r} can't name an artifact.")],
        )
    return name


def _owned(tenant_id: UUID, key: str) -> str:
    found = _KEY.fullmatch(key)
    # To a tenant, what isn't its own isn't there.
    if not found or found["tenant"] != str(tenant_id) or not _is_relative_path(found["name"]):
        raise ObjectMissing(key)
    return key


def _is_relative_path(path: str) -> bool:
    segments = path.split("/")
    return (
        len(path) <= MAX_NAME_CHARACTERS
        and all(_SEGMENT.fullmatch(segment) for segment in segments)
        and not {".", ".."} & set(segments)
        and all(len(segment.encode()) <= _MAX_SEGMENT_BYTES for segment in segments)
        and len(path.encode()) <= _MAX_NAME_BYTES
    )
