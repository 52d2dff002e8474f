"""Which waiting jobs need a pointer in the broker: the due ones, and those whose pointer is lost.

Rows that others hold are skipped, never waited for: several schedulers may run these at once, and
what one leaves out the next round finds. `now()` bounds the scans because an index can't be
searched by `clock_timestamp()`. And below a policy, even one that lets every row through,
PostgreSQL takes no order from "this column is equal to that": the columns of a lane are named in
`ORDER BY`, or the whole lane would be read and sorted.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.guards import from_states, state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, JobEvent, JobState, Priority, sources, targets
from taskflow.jobs.usage import count_changes

SLICE = 500
"""How many rows one statement takes at most."""


def _pointer(row: Any) -> Pointer:
    return Pointer(
        row["id"], Lane(row["queue"], Priority(row["priority"])), row["type"], row["pointer_at"]
    )


_STATES = state_list(DISPATCHABLE | sources(JobEvent.DUE))
_UNDISPATCHED = f"pointer_at IS NULL AND state IN {_STATES}"

_STAMP = f"""
, stamped AS (
    UPDATE jobs
    SET state = CASE WHEN due.state IN {from_states(JobEvent.DUE)}
                     THEN '{JobState.QUEUED}' ELSE due.state END,
        pointer_at = clock_timestamp(),
        updated_at = CASE WHEN due.state IN {from_states(JobEvent.DUE)}
                          THEN clock_timestamp() ELSE jobs.updated_at END
    FROM due
    WHERE jobs.id = due.id
    RETURNING jobs.id, jobs.tenant_id, jobs.type, jobs.queue, jobs.priority, jobs.attempt,
              jobs.pointer_at, due.state AS source
), moved AS (
    SELECT * FROM stamped WHERE source IN {from_states(JobEvent.DUE)}
), history AS (
    INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt)
    SELECT id, tenant_id, '{JobEvent.DUE}', source, '{JobState.QUEUED}', attempt FROM moved
), usage AS (
    {count_changes("moved", sources=sources(JobEvent.DUE), targets=targets(JobEvent.DUE))}
)
SELECT id, type, queue, priority, pointer_at FROM stamped
"""

_STAMP_DUE = f"""
WITH due AS MATERIALIZED (
    SELECT id, state FROM jobs
    WHERE {_UNDISPATCHED} AND run_at <= now()
    ORDER BY run_at LIMIT $1
    FOR UPDATE SKIP LOCKED
){_STAMP}"""

# The same, as `ix_jobs_undispatched_lane` has it, so that this index alone can be used.
_UNDISPATCHED_IN_LANE = f"coalesce(pointer_at, '-infinity') = '-infinity' AND state IN {_STATES}"

# A lane that is left aside may hold the million that are the longest due. So each other lane is
# asked for its own: by a loose index scan, one probe for each lane and no more rows than a slice.
_STAMP_DUE_WITHOUT = f"""
WITH RECURSIVE lane AS (
    (SELECT queue, priority FROM jobs WHERE {_UNDISPATCHED_IN_LANE}
     ORDER BY queue, priority LIMIT 1)
    UNION ALL
    SELECT next.* FROM lane CROSS JOIN LATERAL (
        SELECT queue, priority FROM jobs
        WHERE {_UNDISPATCHED_IN_LANE} AND (queue, priority) > (lane.queue, lane.priority)
        ORDER BY queue, priority LIMIT 1
    ) AS next
), found AS MATERIALIZED (
    SELECT found.id FROM lane CROSS JOIN LATERAL (
        SELECT id, run_at FROM jobs
        WHERE {_UNDISPATCHED_IN_LANE} AND run_at <= now()
          AND queue = lane.queue AND priority = lane.priority
        ORDER BY queue, priority, run_at LIMIT $1
    ) AS found
    WHERE lane.queue || '.' || lane.priority <> ALL($2::text[])
    ORDER BY found.run_at LIMIT $1
), locked AS MATERIALIZED (
    SELECT id, state, pointer_at, run_at FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM found))
    FOR UPDATE SKIP LOCKED
), due AS (
    SELECT id, state FROM locked WHERE {_UNDISPATCHED} AND run_at <= now()
){_STAMP}"""


async def stamp_due(
    connection: Connection, *, without: Sequence[Lane] = (), limit: int = SLICE
) -> list[Pointer]:
    """Give a pointer to due jobs that have none, the longest due first; a full slice means more.

    Scheduled ones become queued. `without` names lanes to leave aside.
    """
    if without:
        keys = [lane.key for lane in without]
        rows = await connection.fetch(_STAMP_DUE_WITHOUT, limit, keys)
    else:
        rows = await connection.fetch(_STAMP_DUE, limit)
    return [_pointer(row) for row in rows]


WITH_WAITING_LANES = f"""
WITH RECURSIVE lane AS (
    (SELECT queue, priority FROM jobs WHERE state IN {state_list(DISPATCHABLE)}
     ORDER BY queue, priority LIMIT 1)
    UNION ALL
    SELECT next.* FROM lane CROSS JOIN LATERAL (
        SELECT queue, priority FROM jobs
        WHERE state IN {state_list(DISPATCHABLE)}
          AND (queue, priority) > (lane.queue, lane.priority)
        ORDER BY queue, priority LIMIT 1
    ) AS next
)
"""
"""The head of a statement: `lane` has the queue and priority of each lane in which a job waits.
A loose index scan: one probe for each lane, however many jobs wait in it."""

_WAITING_LANES = f"{WITH_WAITING_LANES} SELECT queue, priority, now() AS seen_at FROM lane"


async def waiting_lanes(connection: Connection) -> dict[Lane, datetime]:
    """The lanes in which a job waits, each with the database's time of this look."""
    rows = await connection.fetch(_WAITING_LANES)
    return {Lane(row["queue"], Priority(row["priority"])): row["seen_at"] for row in rows}


# A watermark ahead of the database's clock would count pointers as overtaken that are not. No
# watermark stays NULL, which `least` alone would turn into now.
_STAMP_LOST = f"""
WITH overtaken AS (
    SELECT max(least((watermarks ->> ($1 || '.' || $2::text))::timestamptz, now())) AS at
    FROM workers WHERE watermarks ? ($1 || '.' || $2::text)
), lost AS MATERIALIZED (
    SELECT id FROM jobs
    WHERE state IN {state_list(DISPATCHABLE)}
      AND queue = $1 AND priority = $2::text::job_priority
      AND pointer_at < (SELECT greatest(at, $3::timestamptz) FROM overtaken)
                       - make_interval(secs => $4)
      AND run_at <= now()
    ORDER BY queue, priority, pointer_at LIMIT $5
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET pointer_at = clock_timestamp()
FROM lost WHERE jobs.id = lost.id
RETURNING jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.pointer_at
"""


async def stamp_lost(
    connection: Connection,
    lane: Lane,
    *,
    empty_at: datetime | None,
    lost_after_seconds: float,
    limit: int = SLICE,
) -> list[Pointer]:
    """Give a new pointer to a lane's jobs whose own is lost; a full slice means more.

    Lost is a pointer that is `lost_after_seconds` behind the newest one that any worker has
    claimed from the lane, or behind `empty_at`: when its queue had been empty for as long.
    """
    rows = await connection.fetch(
        _STAMP_LOST, lane.queue, lane.priority, empty_at, lost_after_seconds, limit
    )
    return [_pointer(row) for row in rows]


_RESTAMP = f"""
WITH unclaimed AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[]) AS unclaimed (id, pointer_at)
), locked AS MATERIALIZED (
    SELECT jobs.id FROM jobs JOIN unclaimed USING (id, pointer_at)
    WHERE jobs.state IN {state_list(DISPATCHABLE)}
    ORDER BY jobs.id FOR UPDATE OF jobs SKIP LOCKED
)
UPDATE jobs SET pointer_at = clock_timestamp()
FROM locked WHERE jobs.id = locked.id
RETURNING jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.pointer_at
"""


async def restamp(connection: Connection, unclaimed: Sequence[Pointer]) -> list[Pointer]:
    """Give new pointers to those of these jobs that wait on with this very one."""
    rows = await connection.fetch(
        _RESTAMP,
        [pointer.job_id for pointer in unclaimed],
        [pointer.pointer_at for pointer in unclaimed],
    )
    return [_pointer(row) for row in rows]


FIND_COMMITTED = f"""
SELECT id, type, queue, priority, pointer_at,
       state = '{JobState.QUEUED}' AND attempt = 0 AND pointer_at < 'infinity' IS TRUE
           AS is_waiting
FROM jobs WHERE id = ANY($1::uuid[])
"""


async def find_committed(
    connection: Connection, job_ids: Iterable[UUID]
) -> dict[UUID, Pointer | None]:
    """Those of these jobs that are there, each with its pointer if it waits for its first start.

    None stands for a job that no pointer is to be sent for: it has none, or has been started.
    """
    rows = await connection.fetch(FIND_COMMITTED, list(job_ids))
    return {row["id"]: _pointer(row) if row["is_waiting"] else None for row in rows}


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


# The header counts milliseconds, so it may lie a little before its stamp. Rows are waited for
# here: the message that says so is acked afterwards.
_UNSTAMP_UNROUTED = f"""
WITH unrouted AS (
    SELECT id, max(pointer_at) AS pointer_at
    FROM unnest($1::uuid[], $2::timestamptz[]) AS unrouted (id, pointer_at)
    GROUP BY id
), locked AS MATERIALIZED (
    SELECT jobs.id FROM jobs JOIN unrouted USING (id)
    WHERE jobs.state IN {state_list(DISPATCHABLE)}
      AND (unrouted.pointer_at IS NULL
           OR jobs.pointer_at <= unrouted.pointer_at + interval '1 millisecond')
    ORDER BY jobs.id FOR UPDATE OF jobs
)
UPDATE jobs SET pointer_at = NULL FROM locked WHERE jobs.id = locked.id RETURNING jobs.id
"""


async def unstamp_unrouted(
    connection: Connection, pointers: Sequence[tuple[UUID, datetime | None]]
) -> int:
    """Take the stamps of pointers that found no lane; how many jobs will be dispatched anew.

    `pointers` are (job id, `pointer_at` header); one that has been replaced since is passed over.
    """
    rows = await connection.fetch(
        _UNSTAMP_UNROUTED, [job_id for job_id, _ in pointers], [at for _, at in pointers]
    )
    return len(rows)
