"""What workers write to begin: the claim (`leases` has what keeps it, `finishing` the end).

Statements take many jobs at once and lock their rows in the order of their ids first, since
unsorted batches deadlock with each other.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.claim_sql import may_run, next_tenant, openable
from taskflow.jobs.guards import from_states
from taskflow.jobs.lanes import Lane, lane_of
from taskflow.jobs.losses import count_losses
from taskflow.jobs.outcomes import Attempt
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import JobEvent, sources, targets
from taskflow.jobs.usage import count_changes
from taskflow.sealing.form import json_sealed_by
from taskflow.values import value_type

NOT_OURS_DELAY_SECONDS = 5.0
NOT_OURS_LAST_DELAY_SECONDS = 60.0
"""How long a pointer waits that reached a worker which doesn't know its job's type, or lacks the
key to it: as long again as the job has waited by then, within these bounds, so that many of them
don't crowd a lane."""


@value_type
class ClaimedJob:
    """A job that this worker now runs, with what its handler needs.

    `losses`: how many attempts of this budget have lost their workers, by this job's fault or not.
    """

    attempt: Attempt
    tenant_id: UUID
    type: str
    lane: Lane
    payload_json: str
    checkpoint_json: str | None
    timeout_seconds: float | None
    max_attempts: int
    attempt_limit: int
    created_at: datetime
    started_at: datetime
    losses: int = 0

    @property
    def attempts_left(self) -> int:
        """How many attempts the budget holds after this one."""
        return self.attempt_limit - self.attempt.number

    @property
    def failures_if_this_fails(self) -> int:
        """How many attempts of this budget will have failed if this one does."""
        return self.attempt.number - (self.attempt_limit - self.max_attempts)


@value_type
class Later:
    """The pointer came before its time, or to who can't run its job: to a rung of the ladder.

    `missing_key`: what the job holds is sealed with this key, which the worker doesn't have.
    `is_new`: it has a stamp of its own, and goes whichever older pointer it stands for.
    """

    pointer: Pointer
    delay_seconds: float
    missing_key: str | None = None
    is_new: bool = False


@value_type
class Gone:
    """There is nothing to run: another worker got there first, or the job has ended."""

    job_id: UUID


@value_type
class Undecided:
    """It may run unless it has to give way to others, or to a quota: `fair_claim` judges that.

    `quota`: how many jobs of its tenant may run (0: any number).
    """

    job_id: UUID
    tenant_id: UUID
    lane: Lane
    run_at: datetime
    quota: int


Verdict = ClaimedJob | Later | Gone | Undecided

_CLAIM = f"""
WITH RECURSIVE locked AS MATERIALIZED (
    SELECT * FROM jobs WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE
), limited AS MATERIALIZED (
    SELECT tenant_id, coalesce(own.running_jobs, $7::bigint) AS most
    FROM (SELECT DISTINCT tenant_id FROM locked) AS asked
    LEFT JOIN tenant_quotas AS own USING (tenant_id)
    WHERE coalesce(own.running_jobs, $7::bigint) > 0 AND $7::bigint IS NOT NULL
), ready AS MATERIALIZED (
    SELECT id, tenant_id, queue, priority, state, clock_timestamp() AS at
    FROM locked WHERE {may_run("locked", "$5", "$6")}
), own AS MATERIALIZED (
    SELECT DISTINCT queue, priority, tenant_id FROM ready WHERE $8::boolean
), met AS (
    -- Through the tenants whose jobs wait in a lane, to the first that has none of these.
    SELECT DISTINCT ON (queue, priority) queue, priority, tenant_id FROM own
    UNION
    SELECT met.queue, met.priority, next.tenant_id
    FROM met CROSS JOIN LATERAL (SELECT {next_tenant("met")} AS tenant_id OFFSET 0) AS next
    WHERE (met.queue, met.priority, met.tenant_id) IN (TABLE own)
), contended AS MATERIALIZED (
    SELECT queue, priority FROM met WHERE (queue, priority, tenant_id) NOT IN (TABLE own)
), undecided AS MATERIALIZED (
    SELECT id FROM ready
    WHERE tenant_id IN (SELECT tenant_id FROM limited)
       OR (queue, priority) IN (SELECT queue, priority FROM contended)
), claimed AS (
    UPDATE jobs
    SET state = 'running',
        attempt = jobs.attempt + 1,
        worker_id = $2,
        claim_token = $3,
        lease_expires_at = ready.at + make_interval(secs => $4),
        started_at = ready.at,
        finished_at = NULL,
        progress_percent = NULL,
        progress_message = NULL,
        updated_at = ready.at
    FROM ready
    WHERE jobs.id = ready.id AND ready.id NOT IN (SELECT id FROM undecided)
    RETURNING jobs.id, jobs.tenant_id, ready.state AS source, jobs.attempt, jobs.started_at
), history AS (
    INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt, worker_id)
    SELECT id, tenant_id, 'claim', source, 'running', attempt, $2 FROM claimed
), usage AS (
    {count_changes("claimed", sources=sources(JobEvent.CLAIM), targets=targets(JobEvent.CLAIM))}
)
SELECT locked.id, locked.tenant_id, locked.type, locked.queue, locked.priority, locked.payload,
       locked.checkpoint, locked.timeout_seconds, locked.max_attempts, locked.attempt_limit,
       locked.created_at, locked.pointer_at, locked.pointer_at < 'infinity' AS has_pointer,
       coalesce(claimed.attempt, locked.attempt) AS attempt,
       CASE WHEN locked.attempt = 0 THEN 0 ELSE {count_losses("locked")} END AS losses,
       coalesce(claimed.started_at, locked.started_at) AS started_at,
       -- A second claim with the same token: the first one's answer was lost.
       claimed.id IS NOT NULL OR (locked.state = 'running' AND locked.claim_token = $3) AS runs,
       locked.state IN {from_states(JobEvent.CLAIM)}
           AND (locked.expires_at IS NULL OR locked.expires_at > clock_timestamp()) AS waits,
       locked.id IN (SELECT id FROM undecided) AS is_undecided,
       coalesce((SELECT most FROM limited WHERE limited.tenant_id = locked.tenant_id), 0) AS quota,
       locked.run_at,
       extract(epoch FROM locked.run_at - clock_timestamp())::float8 AS seconds_to_run_at,
       extract(epoch FROM clock_timestamp() - greatest(locked.updated_at, locked.run_at))::float8
           AS seconds_waited
FROM locked LEFT JOIN claimed ON claimed.id = locked.id
"""


async def claim(
    connection: Connection,
    job_ids: Sequence[UUID],
    *,
    worker_id: UUID,
    claim_token: UUID,
    lease_seconds: float,
    job_types: Sequence[str],
    key_ids: Sequence[str] = (),
    running_quota: int | None = None,
    saturated: bool = False,
) -> list[Verdict]:
    """Take what of `job_ids` may run now: a verdict for each, in their order.

    What is sealed with none of `key_ids` is left for others, like a type that isn't known.
    `running_quota` is that of tenants that have none of their own (0: any number); those that have
    one stay undecided. None: whatever quotas say. `saturated`: more may wait than there are slots,
    so what shares its lane with jobs of tenants that have none of these stays undecided.

    After an error whose outcome is unknown the same call with the same `claim_token` finds again
    what the first one took.
    """
    rows = await connection.fetch(
        _CLAIM,
        job_ids,
        worker_id,
        claim_token,
        lease_seconds,
        job_types,
        openable(key_ids),
        running_quota,
        saturated,
    )
    verdicts = {row["id"]: _verdict(row, worker_id, key_ids) for row in rows}
    return [verdicts.get(job_id, Gone(job_id)) for job_id in job_ids]


def _verdict(row: Any, worker_id: UUID, key_ids: Sequence[str]) -> Verdict:
    lane = lane_of(row["queue"], row["priority"])
    if row["runs"]:
        return ClaimedJob(
            attempt=Attempt(row["id"], row["attempt"], worker_id),
            tenant_id=row["tenant_id"],
            type=row["type"],
            lane=lane,
            payload_json=row["payload"],
            checkpoint_json=row["checkpoint"],
            timeout_seconds=row["timeout_seconds"],
            max_attempts=row["max_attempts"],
            attempt_limit=row["attempt_limit"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            losses=row["losses"],
        )
    early = row["seconds_to_run_at"]
    if row["waits"] and row["is_undecided"] and early <= 0:
        return Undecided(row["id"], row["tenant_id"], lane, row["run_at"], row["quota"])
    # Without a stamp, or held, the scheduler will publish the job itself; this pointer can go.
    if row["waits"] and row["has_pointer"]:
        delay = early if early > 0 else _not_ours_delay(row["seconds_waited"])
        pointer = Pointer(row["id"], lane, row["type"], row["pointer_at"])
        return Later(pointer, delay, None if early > 0 else _missing_key(row, key_ids))
    return Gone(row["id"])


def _missing_key(row: Any, key_ids: Sequence[str]) -> str | None:
    sealed_by = (json_sealed_by(row["payload"]), json_sealed_by(row["checkpoint"]))
    return next((key for key in sealed_by if key is not None and key not in key_ids), None)


def _not_ours_delay(seconds_waited: float) -> float:
    return min(max(seconds_waited, NOT_OURS_DELAY_SECONDS), NOT_OURS_LAST_DELAY_SECONDS)
