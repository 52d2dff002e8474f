"""Taking back the stamp of a pointer that was not sent, so that the scheduler sends another."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.guards import state_list
from taskflow.jobs.states import DISPATCHABLE

# Compared with the stamp: a newer pointer may be on its way by now.
_UNSTAMP = f"""
WITH unsent AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[]) AS unsent (id, pointer_at)
), locked AS MATERIALIZED (
    SELECT jobs.id FROM jobs JOIN unsent USING (id, pointer_at)
    WHERE jobs.state IN {state_list(DISPATCHABLE)}
    ORDER BY jobs.id FOR UPDATE OF jobs
)
UPDATE jobs SET pointer_at = NULL FROM locked WHERE jobs.id = locked.id
"""


async def unstamp(connection: Connection, unsent: Sequence[tuple[UUID, datetime]]) -> None:
    """Mark these (job id, pointer_at) pairs as not sent."""
    await connection.execute(
        _UNSTAMP, [job_id for job_id, _ in unsent], [stamp for _, stamp in unsent]
    )
