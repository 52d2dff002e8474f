"""Jobs that are held because their tenants run as many as they may, and their release."""

from typing import LiteralString
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.guards import state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, Priority

IS_HELD = f"pointer_at = 'infinity' AND state IN {state_list(DISPATCHABLE)}"
"""As the index has it."""


def _release(of_whom: LiteralString) -> LiteralString:
    # A loose index scan: one probe for each tenant and lane in which something is held. Each lane
    # is given the whole of what its tenant may still run, since nobody knows which of them is
    # served; what proves to be too much is held again.
    return f"""
WITH RECURSIVE place AS (
    (SELECT tenant_id, queue, priority FROM jobs WHERE {IS_HELD}{of_whom}
     ORDER BY tenant_id, queue, priority LIMIT 1)
    UNION ALL
    SELECT next.* FROM place CROSS JOIN LATERAL (
        SELECT tenant_id, queue, priority FROM jobs
        WHERE {IS_HELD}{of_whom} AND (tenant_id, queue, priority)
                             > (place.tenant_id, place.queue, place.priority)
        ORDER BY tenant_id, queue, priority LIMIT 1
    ) AS next
), room AS (
    SELECT place.*, CASE coalesce(own.running_jobs, $1::bigint) WHEN 0 THEN $2::bigint
        ELSE least(coalesce(own.running_jobs, $1::bigint) - (
            SELECT coalesce(sum(running_jobs), 0)::bigint FROM tenant_usage
            WHERE tenant_usage.tenant_id = place.tenant_id), $2::bigint) END AS jobs
    FROM place LEFT JOIN tenant_quotas AS own USING (tenant_id)
), found AS MATERIALIZED (
    SELECT found.id FROM room CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE {IS_HELD} AND tenant_id = room.tenant_id
          AND queue = room.queue AND priority = room.priority
        ORDER BY tenant_id, queue, priority, run_at LIMIT greatest(room.jobs, 0)
    ) AS found
    LIMIT $2::bigint
), locked AS MATERIALIZED (
    SELECT id, pointer_at FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM found))
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET pointer_at = clock_timestamp()
FROM locked WHERE jobs.id = locked.id AND locked.pointer_at = 'infinity'
RETURNING jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.pointer_at
"""


_RELEASE = _release("")
_RELEASE_OF_ONE = _release(" AND tenant_id = $3")


async def release(
    connection: Connection,
    *,
    running_quota: int,
    tenant_id: UUID | None = None,
    limit: int = SLICE,
) -> list[Pointer]:
    """Give pointers to as many held jobs as their tenants may start, the longest due first.

    `running_quota` is that of tenants that have none of their own (0: any number); `tenant_id`: of
    this one alone. A full slice means more.
    """
    if tenant_id is None:
        rows = await connection.fetch(_RELEASE, running_quota, limit)
    else:
        rows = await connection.fetch(_RELEASE_OF_ONE, running_quota, limit, tenant_id)
    return [
        Pointer(
            row["id"],
            Lane(row["queue"], Priority(row["priority"])),
            row["type"],
            row["pointer_at"],
        )
        for row in rows
    ]
