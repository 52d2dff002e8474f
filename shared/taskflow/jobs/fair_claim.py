"""Claims that are fair between tenants, and keep to their quotas of running jobs.

A pointer says "look at this job". Where all that is found can run, it is claimed by one statement.
Where more waits than there are slots, the tenants whose jobs wait in these lanes share them: a job
of another tenant may be started in place of one whose pointer is in hand, which comes again in a
moment. The pointer of the job that was started will find nothing to do.

Of a tenant with a quota of running jobs, what is beyond it is held: it has no pointer until it is
released (`holding`). Who claims for such a tenant takes turns, so that the quota is kept exactly.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.attempts import ClaimedJob, Gone, Later, Undecided, Verdict, claim
from taskflow.jobs.contenders import (
    Claim,
    find_taken,
    look_at_own,
    look_at_rivals,
    read_standings,
)
from taskflow.jobs.guards import state_list
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import DISPATCHABLE, Priority
from taskflow.jobs.tenant_turns import Turn, take_turns
from taskflow.jobs.turns import plan, spared

MAX_CLAIM = 100
"""How many jobs are claimed at once."""

GIVE_WAY_SECONDS = 1.0
"""For how long a pointer is sent away whose job gives way: the first rung."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A verdict for each job that was asked for, in their order; and what runs in their place."""

    verdicts: list[Verdict]
    instead: list[ClaimedJob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Room:
    """Slots that are free, pointers that wait for them behind those in hand; who may have them."""

    slots: int
    waiting: int
    rivals: bool


async def claim_fairly(
    connection: Connection,
    job_ids: Sequence[UUID],
    by: Claim,
    *,
    slots: int,
    waiting: int = 0,
    again: bool = False,
) -> Claimed:
    """Take what of `job_ids` may run, and what runs in place of the rest.

    `slots`: how many are free, no fewer than `job_ids` has, and no more jobs are taken. `waiting`:
    how many more pointers are here that could have a slot; behind a claim that is full there may be
    any number. `again`: the same call with the same token came to an error whose outcome is
    unknown; what it has taken is found, and the rest comes again in a moment.
    """
    if again and (taken := await find_taken(connection, by)):
        return await _found_again(connection, job_ids, by, taken)
    asked = len(job_ids)
    saturated = asked >= min(slots, MAX_CLAIM) or asked + waiting > slots
    quota = by.running_quota
    verdicts = await _claim(connection, job_ids, by, running_quota=quota, saturated=saturated)
    undecided = [verdict for verdict in verdicts if isinstance(verdict, Undecided)]
    if not undecided:
        return Claimed(verdicts)
    room = _Room(slots - _started(verdicts), waiting, rivals=saturated)
    judged = await _claim_in_turn(connection, undecided, by, room)
    by_id = {_id_of(verdict): verdict for verdict in judged.verdicts}
    return Claimed([by_id.get(_id_of(each), each) for each in verdicts], judged.instead)


async def _found_again(
    connection: Connection, job_ids: Sequence[UUID], by: Claim, taken: Sequence[UUID]
) -> Claimed:
    found = {_id_of(verdict): verdict for verdict in await _claim(connection, taken, by)}
    # Their slots may be those of the jobs that were taken instead.
    left = [job_id for job_id in job_ids if job_id not in found]
    return _claimed(job_ids, found | await _set_aside(connection, left, []))


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
    connection: Connection, own: Sequence[Undecided], by: Claim, room: _Room
) -> Claimed:
    """Judge who runs, and claim that; what is left is set aside."""
    others = await look_at_rivals(connection, own, by) if room.rivals else []
    quotas = {each.tenant_id: each.quota for each in own}
    quotas |= {each.candidate.tenant_id: each.quota for each in others}
    asked = [each.job_id for each in own]
    limited = [tenant_id for tenant_id, quota in quotas.items() if quota]
    if not (others or limited):
        return Claimed(await _claim(connection, asked, by))
    async with AsyncExitStack() as until_started:
        if limited:
            await until_started.enter_async_context(connection.transaction())
            await take_turns(connection, limited, Turn.RUNNING)
        # What others have started for these tenants is committed by now.
        candidates = [
            *await look_at_own(connection, own, by),
            *(each.candidate for each in others),
        ]
        standings = await read_standings(connection, quotas)
        decided = plan(candidates, standings, slots=len(own), chance=random.random)
        started = await _claim(connection, decided.start, by)
    # After the commit: with rows locked in two goes two claims could wait for each other.
    more = spared(
        len(decided.give_way),
        missed=len(decided.start) - _started(started),  # others had looked at the same moment
        surplus=len(own) - len(decided.hold) + room.waiting - room.slots,
        free=room.slots - _started(started),
    )
    if more:
        started += await _claim(connection, decided.give_way[:more], by)
    later = await _set_aside(connection, decided.give_way[more:], decided.hold)
    return _claimed(asked, {_id_of(verdict): verdict for verdict in started} | later)


def _claimed(job_ids: Sequence[UUID], verdicts: Mapping[UUID, Verdict]) -> Claimed:
    asked = set(job_ids)
    return Claimed(
        [verdicts.get(job_id) or Gone(job_id) for job_id in job_ids],
        [
            verdict
            for job_id, verdict in verdicts.items()
            if isinstance(verdict, ClaimedJob) and job_id not in asked
        ],
    )


def _started(verdicts: Sequence[Verdict]) -> int:
    return sum(isinstance(verdict, ClaimedJob) for verdict in verdicts)


def _id_of(verdict: Verdict) -> UUID:
    match verdict:
        case ClaimedJob():
            return verdict.attempt.job_id
        case Later():
            return verdict.pointer.job_id
        case Gone() | Undecided():
            return verdict.job_id


# A pointer that gives way counts as sent when it is back in its lane. One without a stamp, or that
# is held, is sent by the scheduler.
_SET_ASIDE = f"""
WITH locked AS MATERIALIZED (
    SELECT id, id = ANY($2::uuid[]) AS holds FROM jobs
    WHERE id = ANY($1::uuid[] || $2::uuid[])
      AND state IN {state_list(DISPATCHABLE)} AND pointer_at < 'infinity'
    ORDER BY id FOR UPDATE
)
UPDATE jobs
SET pointer_at = CASE WHEN holds THEN 'infinity'
                      ELSE clock_timestamp() + make_interval(secs => {GIVE_WAY_SECONDS}) END
FROM locked WHERE jobs.id = locked.id
RETURNING jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.pointer_at, holds
"""


async def _set_aside(
    connection: Connection, give_way: Sequence[UUID], hold: Sequence[UUID]
) -> dict[UUID, Verdict]:
    """Write down what gives way and what is held; the pointers to send away."""
    if not (give_way or hold):
        return {}
    rows = await connection.fetch(_SET_ASIDE, give_way, hold)
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
