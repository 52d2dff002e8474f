"""What could be started with the pointers in hand: their own jobs, and others in their place."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.attempts import Undecided
from taskflow.jobs.claim_sql import HAS_POINTER, TENANT_IN_TURN, may_run, next_tenant, openable
from taskflow.jobs.guards import state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import DISPATCHABLE, JobState, Priority
from taskflow.jobs.turns import Candidate, Standing

MAX_RIVALS = 100
"""How many other tenants of a lane are looked at."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims, for what: with the same `token` is found again what was taken by it before.

    `running_quota` is that of tenants without one of their own; 0: any number.
    """

    worker_id: UUID
    token: UUID
    lease_seconds: float
    job_types: Sequence[str]
    key_ids: Sequence[str] = ()
    running_quota: int = 0


_MAY_RUN = may_run("jobs", "$2", "$3")

_OWN = "tenant_id uuid, queue text, priority job_priority"

_HELD = f"""
SELECT held.*
FROM (SELECT DISTINCT tenant_id, queue, priority FROM json_to_recordset($1::json) AS own ({_OWN}))
     AS place
CROSS JOIN LATERAL (
    SELECT id, tenant_id, queue, priority, run_at, {_MAY_RUN} AS may_run FROM jobs
    WHERE tenant_id = place.tenant_id AND queue = place.queue AND priority = place.priority
      AND pointer_at = 'infinity' AND state IN {state_list(DISPATCHABLE)}
    ORDER BY tenant_id, queue, priority, run_at LIMIT $4
) AS held
"""

# From one of the tenants in hand on, round in a circle, and of each no more than could be its
# share, the oldest pointers first. A stamp ahead of now is still on the ladder.
_RIVALS = f"""
WITH RECURSIVE own AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS own ({_OWN})
), lane AS (
    SELECT queue, priority, (array_agg(tenant_id))[1] AS first, count(*) AS slots
    FROM own GROUP BY queue, priority
), rival AS (
    SELECT queue, priority, first, slots, first AS tenant_id, 0 AS step FROM lane
    UNION ALL
    SELECT rival.queue, rival.priority, rival.first, rival.slots, next.tenant_id, rival.step + 1
    FROM rival CROSS JOIN LATERAL (
        SELECT {next_tenant("rival")} AS tenant_id
        OFFSET 0  -- or it would be asked for twice
    ) AS next
    WHERE rival.step < {MAX_RIVALS} AND next.tenant_id <> rival.first
), counted AS (
    SELECT DISTINCT queue, priority, slots, tenant_id,
           count(*) OVER (PARTITION BY queue, priority) AS rivals
    FROM rival WHERE step > 0
      AND (tenant_id, queue, priority) NOT IN (SELECT tenant_id, queue, priority FROM own)
)
SELECT found.*, coalesce(quotas.running_jobs, $4::bigint) AS most
FROM counted LEFT JOIN tenant_quotas AS quotas USING (tenant_id)
CROSS JOIN LATERAL (
    SELECT id, tenant_id, queue, priority, pointer_at, {_MAY_RUN} AS may_run FROM jobs
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


@dataclass(frozen=True, slots=True)
class Contender:
    """A job of somebody who may come in place of those in hand; `quota` is of its tenant."""

    candidate: Candidate
    quota: int


async def look_at_rivals(
    connection: Connection, own: Sequence[Undecided], by: Claim
) -> list[Contender]:
    """What waits in the lanes of these jobs, of tenants that have none of them in that lane.

    The oldest pointers first.
    """
    rows = await connection.fetch(
        _RIVALS, _as_json(own), by.job_types, openable(by.key_ids), by.running_quota
    )
    return [Contender(_candidate(row), row["most"]) for row in rows if row["may_run"]]


async def look_at_own(
    connection: Connection, own: Sequence[Undecided], by: Claim
) -> list[Candidate]:
    """The jobs in hand, and what is held of their tenants in their place: the longest due first."""
    limited = [each for each in own if each.quota]
    held: Sequence[Any] = ()
    if limited:
        held = await connection.fetch(
            _HELD, _as_json(limited), by.job_types, openable(by.key_ids), len(own)
        )
    in_hand = {each.job_id for each in own}
    candidates = [
        (each.run_at, Candidate(each.job_id, each.tenant_id, each.lane, has_pointer=True))
        for each in own
    ] + [
        (row["run_at"], _candidate(row))
        for row in held
        if row["may_run"] and row["id"] not in in_hand
    ]
    candidates.sort(key=lambda due: (due[0], due[1].job_id))
    return [candidate for _, candidate in candidates]


def _as_json(own: Sequence[Undecided]) -> str:
    return json.dumps(
        [
            {
                "tenant_id": str(each.tenant_id),
                "queue": each.lane.queue,
                "priority": each.lane.priority,
            }
            for each in own
        ]
    )


def _candidate(row: Any) -> Candidate:
    lane = Lane(row["queue"], Priority(row["priority"]))
    return Candidate(row["id"], row["tenant_id"], lane, has_pointer=False)


async def read_standings(
    connection: Connection, quotas: Mapping[UUID, int]
) -> dict[UUID, Standing]:
    """How these tenants stand, whose quotas of running jobs are these."""
    rows = await connection.fetch(_RUNNING, list(quotas))
    running = {row["tenant_id"]: row["running"] for row in rows}
    return {tenant: Standing(running.get(tenant, 0), most) for tenant, most in quotas.items()}


_TAKEN = f"""
SELECT id FROM jobs WHERE state = '{JobState.RUNNING}' AND worker_id = $1 AND claim_token = $2
"""


async def find_taken(connection: Connection, by: Claim) -> list[UUID]:
    """What this token has taken before, and still runs."""
    return [row["id"] for row in await connection.fetch(_TAKEN, by.worker_id, by.token)]
