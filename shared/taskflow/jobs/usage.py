"""What tenants use, counted in the statements that change it: each adds a row with its change.

A sum of rows that are only ever added makes nobody wait for anybody. The scheduler folds a tenant's
many rows into one, and compares the sums with the jobs themselves.
"""

from collections.abc import Collection
from typing import Any, LiteralString
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.guards import state_list
from taskflow.jobs.quotas import JOB_BYTES, Usage
from taskflow.jobs.states import WAITING, JobState

FOLD_FROM = 32
"""From how many rows on a tenant's are folded; fewer cost nothing to add up."""

_FOLD_LOCK = 7_301_448_217_905
"""The advisory lock of who folds: two at once would wait for each other's rows."""

_MEND_LOCK = 7_301_448_217_906


def count_changes(
    changes: LiteralString,
    *,
    source: LiteralString = "NULL::job_state",
    target: LiteralString,
    kept_bytes: LiteralString = "0",
) -> LiteralString:
    """The INSERT, for a CTE, that counts what the rows of the relation `changes` have done.

    `source`, `target` and `kept_bytes` are SQL over a row: its states before and after, and the
    bytes that are kept of it from then on. It must have `tenant_id`.
    """
    waiting = state_list(WAITING)
    return f"""
    INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)
    SELECT tenant_id,
           count(*) FILTER (WHERE {target} IN {waiting})
           - count(*) FILTER (WHERE {source} IN {waiting}),
           coalesce(sum({kept_bytes}), 0),
           count(*) FILTER (WHERE {target} = '{JobState.RUNNING}')
           - count(*) FILTER (WHERE {source} = '{JobState.RUNNING}')
    FROM {changes} GROUP BY tenant_id
    """


KEPT_OF_NEW_JOB = f"{JOB_BYTES} + payload_bytes + attribute_bytes"
KEPT_OF_JOB = f"{KEPT_OF_NEW_JOB} + artifact_bytes + coalesce(result_bytes, 0)"
"""What a row of `jobs` counts for, as long as there is one."""

_WRITE = """
INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)
VALUES ($1, $2, $3, $4)
"""


async def write_change(connection: Connection, tenant_id: UUID, change: Usage) -> None:
    """Count a change, in the transaction that makes it."""
    if change:
        await connection.execute(
            _WRITE,
            tenant_id,
            change.waiting_jobs,
            change.kept_bytes,
            change.running_jobs,
        )


SUMS = """
    coalesce(sum(waiting_jobs), 0)::bigint AS waiting_jobs,
    coalesce(sum(kept_bytes), 0)::bigint AS kept_bytes,
    coalesce(sum(running_jobs), 0)::bigint AS running_jobs"""
"""The columns of a usage, over rows of `tenant_usage`."""

_READ = f"""
SELECT tenant_id, count(used.tenant_id) AS rows, {SUMS}
FROM unnest($1::uuid[]) AS asked (tenant_id) LEFT JOIN tenant_usage AS used USING (tenant_id)
GROUP BY tenant_id
"""


async def read_usage(connection: Connection, tenants: Collection[UUID]) -> dict[UUID, Usage]:
    """What each of these tenants uses."""
    rows = await connection.fetch(_READ, list(tenants))
    return {row["tenant_id"]: usage_of(row) for row in rows}


def usage_of(row: Any) -> Usage:
    """The usage in a row that has its columns."""
    return Usage(row["waiting_jobs"], row["kept_bytes"], row["running_jobs"])


# Whoever comes while another one folds has nothing to do. What is added meanwhile is not seen.
_FOLD = f"""
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock({_FOLD_LOCK}) AS is_ours
), many AS MATERIALIZED (
    SELECT tenant_id FROM tenant_usage
    WHERE (SELECT is_ours FROM turn) GROUP BY tenant_id HAVING count(*) >= $1
), taken AS (
    DELETE FROM tenant_usage WHERE tenant_id IN (SELECT tenant_id FROM many)
    RETURNING *
), folded AS (
    INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)
    SELECT tenant_id, sum(waiting_jobs), sum(kept_bytes), sum(running_jobs)
    FROM taken GROUP BY tenant_id
)
SELECT count(*) FROM taken
"""


async def fold(connection: Connection, *, fold_from: int = FOLD_FROM) -> int:
    """Make one row of those of each tenant that has `fold_from` or more; how many went into it.

    In a tenant's name, or several's, it folds theirs.
    """
    count: int = await connection.fetchval(_FOLD, fold_from)
    return count


# One snapshot has the jobs and the rows that were committed with them, so the difference is exact
# whatever is being written meanwhile.
_MEND = f"""
WITH actual AS (
    SELECT tenant_id,
           count(*) FILTER (WHERE state IN {state_list(WAITING)}) AS waiting_jobs,
           sum({KEPT_OF_JOB}) AS kept_bytes,
           count(*) FILTER (WHERE state = '{JobState.RUNNING}') AS running_jobs
    FROM jobs GROUP BY tenant_id
), counted AS (
    SELECT tenant_id, {SUMS} FROM tenant_usage GROUP BY tenant_id
), difference AS (
    SELECT tenant_id,
           coalesce(actual.waiting_jobs, 0) - coalesce(counted.waiting_jobs, 0) AS waiting_jobs,
           coalesce(actual.kept_bytes, 0) - coalesce(counted.kept_bytes, 0) AS kept_bytes,
           coalesce(actual.running_jobs, 0) - coalesce(counted.running_jobs, 0) AS running_jobs
    FROM actual FULL JOIN counted USING (tenant_id)
)
INSERT INTO tenant_usage (tenant_id, waiting_jobs, kept_bytes, running_jobs)
SELECT * FROM difference WHERE (waiting_jobs, kept_bytes, running_jobs) <> (0, 0, 0)
RETURNING *
"""


async def mend(connection: Connection) -> dict[UUID, Usage]:
    """Compare every tenant's count with its jobs, and correct it; what was added to each.

    It reads all jobs. While another one does so there is nothing to do.
    """
    async with connection.transaction():
        # Before the snapshot: two who see the same difference would both add it.
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _MEND_LOCK):
            return {}
        return {row["tenant_id"]: usage_of(row) for row in await connection.fetch(_MEND)}
