"""What becomes of jobs that wait for others (`depends_on`), inside the parents' transaction."""

from collections.abc import Sequence
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.guards import from_states
from taskflow.jobs.states import JobEvent, sources, targets
from taskflow.jobs.usage import count_changes

# Locked before they are judged: two parents that end at the same moment would otherwise each see
# the other one still running, and nobody would free the child.
_LOCK_CHILDREN = f"""
SELECT id FROM jobs
WHERE depends_on && $1::uuid[] AND state IN {from_states(JobEvent.UNBLOCK)}
ORDER BY id FOR UPDATE
"""

_COUNT = count_changes(
    "settled",
    sources=sources(JobEvent.UNBLOCK),
    targets=targets(JobEvent.UNBLOCK, JobEvent.CANCEL),
)

# A parent without a row was deleted, which only a finished job can be; had it failed, its
# children would have been cancelled then.
_SETTLE_CHILDREN = f"""
WITH judged AS (
    SELECT child.id, child.tenant_id, child.has_dependents, child.run_at,
           count(*) FILTER (
               WHERE parent.state IN ('failed', 'cancelled', 'expired')) AS ended_badly,
           count(*) FILTER (WHERE parent.state <> 'completed') AS not_completed,
           min(parent.id::text) FILTER (
               WHERE parent.state IN ('failed', 'cancelled', 'expired')) AS culprit,
           clock_timestamp() AS at
    FROM jobs AS child
    CROSS JOIN unnest(child.depends_on) AS dependency (id)
    LEFT JOIN jobs AS parent ON parent.id = dependency.id
    WHERE child.id = ANY($1::uuid[]) AND child.state IN {from_states(JobEvent.UNBLOCK)}
    GROUP BY child.id
), settled AS (
    UPDATE jobs
    SET state = CASE WHEN ended_badly > 0 THEN 'cancelled'
                     WHEN judged.run_at > judged.at THEN 'scheduled'
                     ELSE 'queued' END::job_state,
        error = CASE WHEN ended_badly > 0 THEN jsonb_build_object(
            'type', 'parent_failed', 'retryable', false,
            'message', 'The job ' || culprit || ', which this one waited for, did not complete.')
            END,
        finished_at = CASE WHEN ended_badly > 0 THEN judged.at END,
        updated_at = judged.at
    FROM judged
    WHERE jobs.id = judged.id AND (ended_badly > 0 OR not_completed = 0)
    RETURNING jobs.id, jobs.tenant_id, jobs.state, jobs.attempt, jobs.error, jobs.has_dependents
), history AS (
    INSERT INTO job_events (job_id, tenant_id, event, source, target, attempt, detail)
    SELECT id, tenant_id,
           CASE WHEN state = 'cancelled' THEN 'cancel' ELSE 'unblock' END::job_event,
           'blocked', state, attempt,
           CASE WHEN error IS NOT NULL THEN jsonb_build_object('error', error) END
    FROM settled
), usage AS (
    {_COUNT}
)
SELECT id FROM settled WHERE state = 'cancelled' AND has_dependents
"""


async def resolve_dependents(connection: Connection, ended: Sequence[UUID]) -> None:
    """Free the children of completed jobs, cancel those of jobs that ended badly, and theirs.

    Must run in the transaction that ended the parents. What it frees has no pointer yet: the
    scheduler sends one at its next tick.
    """
    parents = list(ended)
    while parents:
        children = [row["id"] for row in await connection.fetch(_LOCK_CHILDREN, parents)]
        if not children:
            return
        parents = [row["id"] for row in await connection.fetch(_SETTLE_CHILDREN, children)]
