"""Where the logs of jobs lie in the object store, and how a job's lines are taken out of there."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from uuid import UUID

from taskflow.db.pool import Database
from taskflow.errors import ObjectMissing
from taskflow.jobs.log_index import StoredLogRange, is_named, object_locked
from taskflow.object_store import ObjectStore

CONTENT_TYPE = "application/x-ndjson"


def log_object_key(tenant_id: UUID, day: date, worker_id: UUID, sequence: int) -> str:
    """The key of a worker's `sequence`th object."""
    return f"logs/{tenant_id}/{day.isoformat()}/{worker_id}-{sequence:08d}.jsonl"


async def erase(
    database: Database, object_store: ObjectStore, ranges: Iterable[StoredLogRange]
) -> None:
    """Remove the lines of jobs whose rows are deleted already; again does no harm.

    An object in which nobody has lines any more is deleted; in the others the ranges become
    blank lines, since the lines of other jobs have to keep their places.

    Raises:
        ServiceUnavailable: some or all ranges are left; the call can be repeated.
        Exception: one of `db.pool.TRANSIENT_ERRORS`; likewise.
    """
    by_object: defaultdict[str, list[StoredLogRange]] = defaultdict(list)
    for stored in ranges:
        by_object[stored.object_key].append(stored)
    for object_key, stretches in by_object.items():
        # Two who blank the same object at the same time would each put back what the other took.
        async with database.connection() as connection, object_locked(connection, object_key):
            if await is_named(connection, object_key):
                await _blank(object_store, object_key, stretches)
            else:
                await object_store.delete([object_key])


async def _blank(
    object_store: ObjectStore, object_key: str, stretches: Sequence[StoredLogRange]
) -> None:
    try:
        data = bytearray(await object_store.get(object_key))
    except ObjectMissing:
        return
    for stretch in stretches:
        end = min(stretch.byte_offset + stretch.byte_length, len(data))
        if stretch.byte_offset < end:
            data[stretch.byte_offset : end] = b" " * (end - stretch.byte_offset - 1) + b"\n"
    await object_store.put(object_key, bytes(data), CONTENT_TYPE)
