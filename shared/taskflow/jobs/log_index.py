"""Which stretch of which object holds whose lines: the table `log_chunks`.

The object is written first and its rows after it, so the table never names what isn't there.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.db.tenants import Session


@dataclass(frozen=True, slots=True)
class StoredLogRange:
    """A stretch of an object, in bytes."""

    object_key: str
    byte_offset: int
    byte_length: int


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Whole lines of one attempt, and where they lie."""

    tenant_id: UUID
    job_id: UUID
    attempt: int
    stored: StoredLogRange
    line_count: int


# All rows of an object come or go in one statement; erasing a job's lines rests on it. The job
# may have been deleted while its last lines waited for the object store, or be one of those of an
# object that is stored once more: its lines stay unnamed, and are to go. Its artifacts went with
# the job, so any date will do for them.
_INSERT = """
WITH chunk AS MATERIALIZED (
    SELECT given.*, jobs.id IS NOT NULL AS has_job
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::bigint[], $6::bigint[], $7::int[]
    ) WITH ORDINALITY AS given
        (tenant_id, job_id, attempt, object_key, byte_offset, byte_length, line_count, position)
    LEFT JOIN jobs ON jobs.id = given.job_id
), named AS (
    INSERT INTO log_chunks
        (tenant_id, job_id, attempt, object_key, byte_offset, byte_length, line_count)
    SELECT tenant_id, job_id, attempt, object_key, byte_offset, byte_length, line_count
    FROM chunk WHERE has_job
    ORDER BY position
    ON CONFLICT (object_key, byte_offset) DO NOTHING
)
INSERT INTO pending_erasures (tenant_id, job_id, job_created_at, log_ranges)
SELECT tenant_id, job_id, now(),
       jsonb_agg(jsonb_build_array(object_key, byte_offset, byte_length))
FROM chunk WHERE NOT has_job
GROUP BY tenant_id, job_id
"""


# A deletion that ran beside the statement above has seen no chunk. Who names chunks looks for such
# jobs afterwards, and so does who deletes one: whoever looks last sees both.
_TAKE_STRAYS = """
WITH stray AS (
    DELETE FROM log_chunks WHERE job_id = ANY (ARRAY(
        SELECT given.id FROM unnest($1::uuid[]) AS given (id)
        WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = given.id)))
    RETURNING tenant_id, job_id, object_key, byte_offset, byte_length
)
INSERT INTO pending_erasures (tenant_id, job_id, job_created_at, log_ranges)
SELECT tenant_id, job_id, now(),
       jsonb_agg(jsonb_build_array(object_key, byte_offset, byte_length))
FROM stray GROUP BY tenant_id, job_id
"""


async def take_strays(connection: Connection, job_ids: Iterable[UUID]) -> None:
    """Put chunks down for erasure whose job has been deleted. Not inside a transaction."""
    await connection.execute(_TAKE_STRAYS, list(set(job_ids)))


async def insert_chunks(connection: Connection, chunks: Sequence[LogChunk]) -> None:
    """Name chunks, in the order in which their lines are to be read; again changes nothing.

    Lines of jobs that have been deleted, also at this very moment, are put down for erasure.
    """
    await connection.execute(
        _INSERT,
        [chunk.tenant_id for chunk in chunks],
        [chunk.job_id for chunk in chunks],
        [chunk.attempt for chunk in chunks],
        [chunk.stored.object_key for chunk in chunks],
        [chunk.stored.byte_offset for chunk in chunks],
        [chunk.stored.byte_length for chunk in chunks],
        [chunk.line_count for chunk in chunks],
    )
    await take_strays(connection, (chunk.job_id for chunk in chunks))


_LIST = """
SELECT tenant_id, job_id, attempt, object_key, byte_offset, byte_length, line_count
FROM log_chunks
WHERE job_id = $2 AND tenant_id = $1 AND ($3::int IS NULL OR attempt = $3)
ORDER BY attempt, id
"""


async def list_chunks(
    connection: Connection, tenant_id: UUID, job_id: UUID, *, attempt: int | None = None
) -> list[LogChunk]:
    """A job's chunks, of all its attempts or of one, in the order in which to read them."""
    rows = await connection.fetch(_LIST, tenant_id, job_id, attempt)
    return [_chunk(row) for row in rows]


def _chunk(row: Any) -> LogChunk:
    stored = StoredLogRange(row["object_key"], row["byte_offset"], row["byte_length"])
    return LogChunk(row["tenant_id"], row["job_id"], row["attempt"], stored, row["line_count"])


_OBJECT_LOCK = "hashtextextended('taskflow.log_object ' || $1, 0)"


@asynccontextmanager
async def object_locked(connection: Session, object_key: str) -> AsyncIterator[None]:
    """Hold off others who would rewrite this object.

    The session holds the lock, not a transaction: the server ends those that idle while the object
    store takes its time.
    """
    try:
        # Within: a cancellation may come when the lock has been given. One that we don't have is
        # given back with a warning of the server's, and no more.
        await connection.execute(f"SELECT pg_advisory_lock({_OBJECT_LOCK})", object_key)
        yield
    finally:
        try:
            await connection.execute(f"SELECT pg_advisory_unlock({_OBJECT_LOCK})", object_key)
        except BaseException:
            # Back in the pool, the session would hold the lock for ever.
            connection.terminate()
            raise


async def is_named(connection: Connection, object_key: str) -> bool:
    """Whether any chunk lies in this object."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM log_chunks WHERE object_key = $1)", object_key
        )
    )
