"""What deleted jobs have left in the object store: written down as they go, until it is gone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.log_index import StoredLogRange

FIRST_PAUSE_SECONDS = 60
"""Longer than one erasure may take, so that nobody else begins it meanwhile."""

LAST_PAUSE_SECONDS = 900


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """A deleted job whose artifacts and lines of log are to go."""

    id: int
    tenant_id: UUID
    job_id: UUID
    job_created_at: datetime
    log_ranges: Sequence[StoredLogRange]
    tries: int
    """How often it was begun, this time included."""


# Whoever takes one has it until its next turn: an erasure that is cut off or fails comes again
# without anybody's doing, later each time.
_TAKE = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM pending_erasures WHERE due_at <= now()
    ORDER BY due_at LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE pending_erasures AS pending
SET tries = tries + 1,
    due_at = clock_timestamp() + make_interval(
        secs => least({FIRST_PAUSE_SECONDS} * 2 ^ least(tries, 10), {LAST_PAUSE_SECONDS}))
FROM due WHERE pending.id = due.id
RETURNING pending.id, tenant_id, job_id, job_created_at, log_ranges, tries
"""


async def take_due_erasures(connection: Connection, *, limit: int) -> list[PendingErasure]:
    """Take what is to be erased now; a full slice means more."""
    return [_pending(row) for row in await connection.fetch(_TAKE, limit)]


def _pending(row: Any) -> PendingErasure:
    return PendingErasure(
        row["id"],
        row["tenant_id"],
        row["job_id"],
        row["job_created_at"],
        [StoredLogRange(*stored) for stored in json.loads(row["log_ranges"])],
        row["tries"],
    )


async def end_erasure(connection: Connection, erasure: PendingErasure) -> None:
    """Strike it off: nothing is left."""
    await connection.execute("DELETE FROM pending_erasures WHERE id = $1", erasure.id)
