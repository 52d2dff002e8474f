"""What could be started with the pointers in hand: their own jobs, and others in their place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.attempts import HAS_POINTER, TENANT_IN_TURN, is_openable, openable
from taskflow.jobs.guards import from_states, state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import DISPATCHABLE, JobEvent, JobState, Priority
from taskflow.jobs.turns import Candidate, Standing

MAX_RIVALS = 100
"""How many other tenants of a lane are looked at."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims, for what: the same call with the same `token` finds again what the first took.

    `running_quota` is that of tenants without one of their own; 0: any number.
    """

    worker_id: UUID
    token: UUID
    lease_seconds: float
    job_types: Sequence[str]
    key_ids: Sequence[str] = ()
    running_quota: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """What could be started, how its tenants stand, and what this token has taken before."""

    candidates: list[Candidate]
    standings: dict[UUID, Standing]
    taken: set[UUID]


def _may_run(key_ids: str) -> str:
    return f"""
    state IN {from_states(JobEvent.CLAIM)} AND run_at <= clock_timestamp()
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND attempt < attempt_limit AND type = ANY($2::text[]) AND {is_openable("jobs", key_ids)}"""


_OWN = f"""
WITH asked AS (
    SELECT id, tenant_id, queue, priority, run_at,
           {_may_run("$6")} AS may_run,
           state = '{JobState.RUNNING}' AND claim_token = $3 AS is_taken
    FROM jobs WHERE id = ANY($1::uuid[])
       OR (state = '{JobState.RUNNING}' AND worker_id = $4 AND claim_token = $3)
)
SELECT asked.*, coalesce(own.running_jobs, $5::bigint) AS most
FROM asked LEFT JOIN tenant_quotas AS own USING (tenant_id)
"""

_HELD = f"""
SELECT held.* FROM unnest($1::uuid[], $3::text[], $4::text[]) AS asked (tenant_id, queue, priority)
CROSS JOIN LATERAL (
    SELECT id, tenant_id, queue, priority, run_at, {_may_run("$6")} AS may_run FROM jobs
    WHERE tenant_id = asked.tenant_id AND queue = asked.queue
      AND priority = asked.priority::job_priority
      AND pointer_at = 'infinity' AND state IN {state_list(DISPATCHABLE)}
    ORDER BY tenant_id, queue, priority, run_at LIMIT $5
) AS held
"""

# From one of the tenants in hand on, round in a circle: one probe for each tenant, however many
# jobs wait, and of each no more than could be its share, the oldest pointers first. A stamp ahead
# of now is still on the ladder.
_RIVALS = f"""
WITH RECURSIVE lane AS (
    SELECT queue, priority::job_priority, first, slots
    FROM unnest($1::text[], $3::text[], $4::uuid[], $5::int[])
        AS lane (queue, priority, first, slots)
), rival AS (
    SELECT queue, priority, first, slots, first AS tenant_id, 0 AS step FROM lane
    UNION ALL
    SELECT rival.queue, rival.priority, rival.first, rival.slots, next.tenant_id, rival.step + 1
    FROM rival CROSS JOIN LATERAL (
        SELECT coalesce(
            (SELECT tenant_id FROM jobs
             WHERE queue = rival.queue AND priority = rival.priority AND {HAS_POINTER}
               AND {TENANT_IN_TURN} > uuid_send(rival.tenant_id)
             ORDER BY queue, priority, {TENANT_IN_TURN} LIMIT 1),
            (SELECT tenant_id FROM jobs
             WHERE queue = rival.queue AND priority = rival.priority AND {HAS_POINTER}
             ORDER BY queue, priority, {TENANT_IN_TURN} LIMIT 1)) AS tenant_id
    ) AS next
    WHERE rival.step < {MAX_RIVALS} AND next.tenant_id <> rival.first
), counted AS (
    SELECT DISTINCT queue, priority, slots, tenant_id,
           count(*) OVER (PARTITION BY queue, priority) AS rivals
    FROM rival WHERE step > 0 AND tenant_id <> ALL($6::uuid[])
)
SELECT found.*, coalesce(own.running_jobs, $7::bigint) AS most
FROM counted LEFT JOIN tenant_quotas AS own USING (tenant_id)
CROSS JOIN LATERAL (
    SELECT id, tenant_id, queue, priority, pointer_at, {_may_run("$8")} AS may_run FROM jobs
    WHERE queue = counted.queue AND priority = counted.priority
      AND {TENANT_IN_TURN} = uuid_send(counted.tenant_id)
      AND {HAS_POINTER} AND pointer_at <= now()
    ORDER BY queue, priority, {TENANT_IN_TURN}, pointer_at
    LIMIT 1 + 2 * counted.slots / counted.rivals
) AS found
ORDER BY found.pointer_at, found.id
"""

_RUNNING = """
SELECT tenant_id, sum(running_jobs)::bigint AS running FROM tenant_usage
WHERE tenant_id = ANY($1::uuid[]) GROUP BY tenant_id
"""


async def look(connection: Connection, job_ids: Sequence[UUID], by: Claim, *, rivals: bool) -> View:
    """Look at these jobs and at what might run in their place; `rivals`: also of other tenants."""
    own = await connection.fetch(
        _OWN,
        job_ids,
        by.job_types,
        by.token,
        by.worker_id,
        by.running_quota,
        openable(by.key_ids),
    )
    ready = [row for row in own if row["may_run"]]
    most = {row["tenant_id"]: row["most"] for row in ready}
    others = await _look_at_rivals(connection, ready, by) if rivals and ready else []
    most |= {row["tenant_id"]: row["most"] for row in others}
    if not most:
        return View([], {}, {row["id"] for row in own if row["is_taken"]})
    held = await _look_at_held(connection, ready, most, by)
    running = {
        row["tenant_id"]: row["running"] for row in await connection.fetch(_RUNNING, list(most))
    }
    in_hand = {row["id"] for row in ready}
    # The longest due of a tenant first; of others the pointers that have waited longest.
    own_in_order = sorted([*ready, *held], key=lambda row: (row["run_at"], row["id"]))
    return View(
        [_candidate(row, has_pointer=row["id"] in in_hand) for row in (*own_in_order, *others)],
        {tenant: Standing(running.get(tenant, 0), limit) for tenant, limit in most.items()},
        {row["id"] for row in own if row["is_taken"]},
    )


async def _look_at_held(
    connection: Connection, ready: Sequence[Any], most: dict[UUID, int], by: Claim
) -> list[Any]:
    """What has waited for longer, of tenants with a quota, and isn't in hand itself."""
    places = {
        (row["tenant_id"], row["queue"], row["priority"]) for row in ready if most[row["tenant_id"]]
    }
    if not places:
        return []
    tenants, queues, priorities = zip(*places, strict=True)
    rows = await connection.fetch(
        _HELD, tenants, by.job_types, queues, priorities, len(ready), openable(by.key_ids)
    )
    in_hand = {row["id"] for row in ready}
    return [row for row in rows if row["may_run"] and row["id"] not in in_hand]


async def _look_at_rivals(connection: Connection, ready: Sequence[Any], by: Claim) -> list[Any]:
    """What other tenants have waiting in the lanes of these jobs."""
    lanes: dict[tuple[str, str], list[UUID]] = {}
    for row in ready:
        lanes.setdefault((row["queue"], row["priority"]), []).append(row["tenant_id"])
    queues, priorities = zip(*lanes, strict=True)
    rows = await connection.fetch(
        _RIVALS,
        queues,
        by.job_types,
        priorities,
        [tenants[0] for tenants in lanes.values()],
        [len(tenants) for tenants in lanes.values()],
        list({row["tenant_id"] for row in ready}),
        by.running_quota,
        openable(by.key_ids),
    )
    return [row for row in rows if row["may_run"]]


def _candidate(row: Any, *, has_pointer: bool) -> Candidate:
    lane = Lane(row["queue"], Priority(row["priority"]))
    return Candidate(row["id"], row["tenant_id"], lane, has_pointer)
