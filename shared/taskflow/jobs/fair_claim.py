"""Claims that are fair between tenants, and keep to their quotas of running jobs.

A pointer says "look at this job". Where all that is found can run, it is claimed by one statement.
Where there are more pointers than slots, the tenants whose jobs wait in these lanes
share the slots: a job of another tenant may be started in place of one whose pointer is in hand,
which comes again in a moment. The pointer of the job that was started will find nothing to do.

Of a tenant with a quota of running jobs, what is beyond it is held: it has no pointer until it is
released (`holding`). Who claims for such a tenant takes turns, so that the quota is kept exactly.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.attempts import (
    HAS_POINTER,
    TENANT_IN_TURN,
    ClaimedJob,
    Gone,
    Later,
    Undecided,
    Verdict,
    claim,
)
from taskflow.jobs.guards import from_states, state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, JobEvent, JobState, Priority
from taskflow.jobs.turns import Candidate, Plan, Standing, plan

GIVE_WAY_SECONDS = 1.0
"""For how long a pointer is sent away whose job gives way: the first rung."""

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
    running_quota: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A verdict for each job that was asked for, in their order; and what runs in their place."""

    verdicts: list[Verdict]
    instead: list[ClaimedJob] = field(default_factory=list)


async def claim_fairly(
    connection: Connection, job_ids: Sequence[UUID], by: Claim, *, saturated: bool
) -> Claimed:
    """Take as many jobs as `job_ids` has that may run; `saturated`: they are all that can.

    After an error whose outcome is unknown the same call with the same token finds again what the
    first one took.
    """
    quota = by.running_quota
    verdicts = await _claim(connection, job_ids, by, running_quota=quota, saturated=saturated)
    undecided = [verdict.job_id for verdict in verdicts if isinstance(verdict, Undecided)]
    if not undecided:
        return Claimed(verdicts)
    judged = await _claim_in_turn(connection, undecided, by, rivals=saturated, known=verdicts)
    by_id = dict(zip(undecided, judged.verdicts, strict=True))
    return Claimed(
        [by_id[each.job_id] if isinstance(each, Undecided) else each for each in verdicts],
        judged.instead,
    )


async def _claim(
    connection: Connection,
    job_ids: Sequence[UUID],
    by: Claim,
    *,
    running_quota: int | None = None,
    saturated: bool = False,
) -> list[Verdict]:
    return await claim(
        connection,
        job_ids,
        worker_id=by.worker_id,
        claim_token=by.token,
        lease_seconds=by.lease_seconds,
        job_types=by.job_types,
        running_quota=running_quota,
        saturated=saturated,
    )


async def _claim_in_turn(
    connection: Connection,
    job_ids: Sequence[UUID],
    by: Claim,
    *,
    rivals: bool,
    known: Sequence[Verdict],
) -> Claimed:
    """Judge who runs, and claim that; `known` is what this token has taken already."""
    view = await _look(connection, job_ids, by, rivals=rivals)
    limited = sorted(tenant for tenant, standing in view.standings.items() if standing.most)
    if not limited:
        return await _carry_out(connection, job_ids, by, view, known)
    async with connection.transaction():
        await connection.execute(_TAKE_TURNS, limited)
        # What others have started for these tenants is committed by now.
        view = await _look(connection, job_ids, by, rivals=rivals)
        return await _carry_out(connection, job_ids, by, view, known)


_TAKE_TURNS = """
SELECT pg_advisory_xact_lock(hashtextextended('running ' || tenant_id::text, 0))
FROM unnest($1::uuid[]) AS asked (tenant_id)
"""


@dataclass(frozen=True, slots=True)
class _View:
    """What could be started, how its tenants stand, and what this token has taken before."""

    candidates: list[Candidate]
    standings: dict[UUID, Standing]
    taken: set[UUID]


_MAY_RUN = f"""
    state IN {from_states(JobEvent.CLAIM)} AND run_at <= clock_timestamp()
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND attempt < attempt_limit AND type = ANY($2::text[])"""

_OWN = f"""
WITH asked AS (
    SELECT id, tenant_id, queue, priority, run_at,
           {_MAY_RUN} AS may_run, state = '{JobState.RUNNING}' AND claim_token = $3 AS is_taken
    FROM jobs WHERE id = ANY($1::uuid[])
       OR (state = '{JobState.RUNNING}' AND worker_id = $4 AND claim_token = $3)
)
SELECT asked.*, coalesce(own.running_jobs, $5::bigint) AS most
FROM asked LEFT JOIN tenant_quotas AS own USING (tenant_id)
"""

_HELD = f"""
SELECT held.* FROM unnest($1::uuid[], $3::text[], $4::text[]) AS asked (tenant_id, queue, priority)
CROSS JOIN LATERAL (
    SELECT id, tenant_id, queue, priority, run_at, {_MAY_RUN} AS may_run FROM jobs
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


async def _look(
    connection: Connection, job_ids: Sequence[UUID], by: Claim, *, rivals: bool
) -> _View:
    own = await connection.fetch(
        _OWN, job_ids, by.job_types, by.token, by.worker_id, by.running_quota
    )
    ready = [row for row in own if row["may_run"]]
    most = {row["tenant_id"]: row["most"] for row in ready}
    others = await _look_at_rivals(connection, ready, by) if rivals and ready else []
    most |= {row["tenant_id"]: row["most"] for row in others}
    if not most:
        return _View([], {}, {row["id"] for row in own if row["is_taken"]})
    held = await _look_at_held(connection, ready, most, by)
    running = {
        row["tenant_id"]: row["running"] for row in await connection.fetch(_RUNNING, list(most))
    }
    in_hand = {row["id"] for row in ready}
    # The longest due of a tenant first; of others the pointers that have waited longest.
    own_in_order = sorted([*ready, *held], key=lambda row: (row["run_at"], row["id"]))
    return _View(
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
    rows = await connection.fetch(_HELD, tenants, by.job_types, queues, priorities, len(ready))
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
    )
    return [row for row in rows if row["may_run"]]


def _candidate(row: Any, *, has_pointer: bool) -> Candidate:
    lane = Lane(row["queue"], Priority(row["priority"]))
    return Candidate(row["id"], row["tenant_id"], lane, has_pointer)


async def _carry_out(
    connection: Connection,
    job_ids: Sequence[UUID],
    by: Claim,
    view: _View,
    known: Sequence[Verdict],
) -> Claimed:
    before = {each.attempt.job_id for each in known if isinstance(each, ClaimedJob)}
    taken = view.taken - before
    decided = plan(
        view.candidates,
        view.standings,
        slots=len(job_ids) - len(taken),
        chance=random.random,
    )
    ready = {each.job_id for each in view.candidates if each.has_pointer}
    # What can't run now has its verdict from the claim as well.
    wanted = [*decided.start, *taken, *(each for each in job_ids if each not in ready | taken)]
    verdicts = {
        each.attempt.job_id if isinstance(each, ClaimedJob) else _id_of(each): each
        for each in await _claim(connection, wanted, by)
    }
    later = await _set_aside(connection, decided)
    asked = set(job_ids)
    return Claimed(
        [verdicts.get(each) or later.get(each) or Gone(each) for each in job_ids],
        [
            verdict
            for job_id, verdict in verdicts.items()
            if isinstance(verdict, ClaimedJob) and job_id not in asked
        ],
    )


def _id_of(verdict: Later | Gone | Undecided) -> UUID:
    return verdict.pointer.job_id if isinstance(verdict, Later) else verdict.job_id


# A pointer that gives way counts as sent when it is back in its lane. One without a stamp, or that
# is held, is sent by the scheduler.
_SET_ASIDE = f"""
WITH locked AS MATERIALIZED (
    SELECT id, id = ANY($2::uuid[]) AS holds FROM jobs
    WHERE id = ANY($1::uuid[] || $2::uuid[]) AND state IN {state_list(DISPATCHABLE)}
      AND pointer_at < 'infinity'
    ORDER BY id FOR UPDATE
)
UPDATE jobs
SET pointer_at = CASE WHEN holds THEN 'infinity'
                      ELSE clock_timestamp() + make_interval(secs => {GIVE_WAY_SECONDS}) END
FROM locked WHERE jobs.id = locked.id
RETURNING jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.pointer_at, holds
"""


async def _set_aside(connection: Connection, decided: Plan) -> dict[UUID, Verdict]:
    """Write down what gives way and what is held; the pointers to send away."""
    if not (decided.give_way or decided.hold):
        return {}
    rows = await connection.fetch(_SET_ASIDE, decided.give_way, decided.hold)
    return {
        row["id"]: Later(
            Pointer(
                row["id"],
                Lane(row["queue"], Priority(row["priority"])),
                row["type"],
                row["pointer_at"],
            ),
            GIVE_WAY_SECONDS,
            is_new=True,
        )
        for row in rows
        if not row["holds"]
    }
