"""Claims that are fair between tenants, and keep to their quotas of running jobs.

A pointer says "look at this job". Where all that is found can run, it is claimed by one statement.
Where no slot is to spare, the tenants whose jobs wait in these lanes share the slots: a job of
another tenant may be started in place of one whose pointer is in hand, which comes again in a
moment. The pointer of the job that was started will find nothing to do.

Of a tenant with a quota of running jobs, what is beyond it is held: it has no pointer until it is
released (`holding`). Who claims for such a tenant takes turns, so that the quota is kept exactly.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.attempts import ClaimedJob, Gone, Later, Undecided, Verdict, claim
from taskflow.jobs.contenders import Claim, View, look
from taskflow.jobs.guards import state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, Priority
from taskflow.jobs.turns import Plan, plan

GIVE_WAY_SECONDS = 1.0
"""For how long a pointer is sent away whose job gives way: the first rung."""


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
        key_ids=by.key_ids,
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
    view = await look(connection, job_ids, by, rivals=rivals)
    limited = sorted(tenant for tenant, standing in view.standings.items() if standing.most)
    if not limited:
        return await _carry_out(connection, job_ids, by, view, known)
    async with connection.transaction():
        await connection.execute(_TAKE_TURNS, limited)
        # What others have started for these tenants is committed by now.
        view = await look(connection, job_ids, by, rivals=rivals)
        return await _carry_out(connection, job_ids, by, view, known)


_TAKE_TURNS = """
SELECT pg_advisory_xact_lock(hashtextextended('running ' || tenant_id::text, 0))
FROM unnest($1::uuid[]) AS asked (tenant_id)
"""


async def _carry_out(
    connection: Connection,
    job_ids: Sequence[UUID],
    by: Claim,
    view: View,
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
