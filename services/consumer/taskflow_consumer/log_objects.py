"""Objects of log lines as they are stored: the object first, then the rows that name it."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.log_index import LogChunk, StoredLogRange, insert_chunks
from taskflow.log_store import CONTENT_TYPE, log_object_key
from taskflow.object_store import ObjectStore
from taskflow_consumer.log_backlog import Stretch

_PARALLEL_UPLOADS = 4

STORAGE_AWAY: tuple[type[BaseException], ...] = (
    *TRANSIENT_ERRORS,
    ServiceUnavailable,
    # A standby that is read-only, a schema that is behind: they pass, too.
    asyncpg.PostgresError,
)
STORAGE_REFUSES: tuple[type[BaseException], ...] = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
)
"""What the same rows would meet again and again; some of `STORAGE_AWAY`."""


@dataclass(frozen=True, slots=True)
class LogObject:
    """Lines of one tenant's attempts, one stretch after the other, and the rows that say whose.

    `sequence` rises with every object of a worker.
    """

    sequence: int
    key: str
    data: bytes
    chunks: Sequence[LogChunk]

    @property
    def lines(self) -> int:
        """How many lines it holds."""
        return sum(chunk.line_count for chunk in self.chunks)


class Composer:
    """Makes objects out of stretches, one for each tenant."""

    def __init__(self, worker_id: UUID) -> None:
        self._worker_id = worker_id
        self._sequence = itertools.count(1)

    def compose(self, stretches: Iterable[Stretch]) -> list[LogObject]:
        """The objects that hold these stretches, in their order."""
        by_tenant: defaultdict[UUID, list[Stretch]] = defaultdict(list)
        for stretch in stretches:
            by_tenant[stretch.tenant_id].append(stretch)
        day = datetime.now(UTC).date()
        objects = []
        for tenant_id, of_tenant in by_tenant.items():
            sequence = next(self._sequence)
            key = log_object_key(tenant_id, day, self._worker_id, sequence)
            data = b"".join(stretch.lines.data for stretch in of_tenant)
            objects.append(LogObject(sequence, key, data, _chunks(key, of_tenant)))
        return objects


class LogStorage:
    """Writes objects to S3 and their rows to PostgreSQL."""

    def __init__(self, object_store: ObjectStore, database: Database) -> None:
        self._object_store = object_store
        self._database = database
        self._uploads = asyncio.Semaphore(_PARALLEL_UPLOADS)

    async def store(self, objects: Sequence[LogObject]) -> None:
        """Store all of them; may be repeated as it is, also by another process.

        Raises:
            ServiceUnavailable: S3 or PostgreSQL is away; one of `STORAGE_AWAY` else.
        """
        uploads = [asyncio.create_task(self._upload(item)) for item in objects]
        try:
            await asyncio.gather(*uploads)
        finally:
            for upload in uploads:
                upload.cancel()
        async with self._database.connection() as connection:
            await insert_chunks(connection, [chunk for item in objects for chunk in item.chunks])

    async def _upload(self, item: LogObject) -> None:
        async with self._uploads:
            await self._object_store.put(item.key, item.data, CONTENT_TYPE)


def _chunks(key: str, stretches: Sequence[Stretch]) -> list[LogChunk]:
    """The rows of an object that holds these stretches one after the other."""
    chunks = []
    offset = 0
    for stretch in stretches:
        stored = StoredLogRange(key, offset, len(stretch.lines.data))
        chunks.append(
            LogChunk(
                stretch.tenant_id, stretch.job_id, stretch.attempt, stored, stretch.lines.count
            )
        )
        offset += stored.byte_length
    return chunks
