"""What tenants use, counted in the statements that change it: each adds a row with its change.

A sum of rows that are only ever added makes nobody wait for anybody. The scheduler folds a tenant's
many rows into one, and compares the sums with the jobs themselves.
"""

from collections.abc import Collection
from typing import Any, LiteralString
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.db.tenants import Session
from taskflow.jobs.guards import state_list
from taskflow.jobs.quotas import JOB_BYTES, STATE_COLUMNS, USAGE_COLUMNS, Usage, state_column
from taskflow.jobs.states import WAITING, JobState

FOLD_FROM = 32
"""From how many rows on a tenant's are folded; fewer cost nothing to add up."""

_FOLD_LOCK = 7_301_448_217_905
"""The advisory lock of who folds: two at once would wait for each other's rows."""

_MEND_LOCK = 7_301_448_217_906

MEND_SECONDS = 600.0
"""What a look at all jobs may take: more than any other statement of the scheduler."""


def count_changes(
    changes: LiteralString,
    *,
    sources: Collection[JobState] = (),
    targets: Collection[JobState] = (),
    kept_bytes: LiteralString = "",
) -> LiteralString:
    """The INSERT, for a CTE, that counts what the rows of the relation `changes` have done.

    `sources` and `targets`: all states in which its jobs may have been and may be now; none: they
    are new, or gone. Which of several it is a row says in its columns `source` and `state`.
    `kept_bytes` is SQL over a row: the bytes that are kept of it from then on. It must have
    `tenant_id`.
    """
    # What can't have changed is left out: a claim counts as little as it can.
    columns: LiteralString = "tenant_id"
    gains: LiteralString = "tenant_id"
    if waiting := _gain(WAITING, sources, targets):
        columns += ", waiting_jobs"
        gains += f", {waiting}"
    if kept_bytes:
        columns += ", kept_bytes"
        gains += f", coalesce(sum({kept_bytes}), 0)"
    for state in STATE_COLUMNS:
        if gain := _gain({state}, sources, targets):
            columns += f", {state_column(state)}"
            gains += f", {gain}"
    return f"INSERT INTO tenant_usage ({columns}) SELECT {gains} FROM {changes} GROUP BY tenant_id"


def _gain(
    states: Collection[JobState], sources: Collection[JobState], targets: Collection[JobState]
) -> LiteralString:
    """How many more are in `states` than before; empty: as many as before, whatever the rows."""
    now, before = _share("state", targets, states), _share("source", sources, states)
    if now == before:
        return ""
    if not before:
        return now
    return f"{now} - {before}" if now else f"-{before}"


def _share(
    column: LiteralString, among: Collection[JobState], states: Collection[JobState]
) -> LiteralString:
    found = frozenset(among).intersection(states)
    if found == frozenset(among):
        return "count(*)" if found else ""
    return f"count(*) FILTER (WHERE {column} IN {state_list(found)})" if found else ""


KEPT_OF_NEW_JOB = f"{JOB_BYTES} + payload_bytes + attribute_bytes"
KEPT_OF_JOB = f"{KEPT_OF_NEW_JOB} + artifact_bytes + coalesce(result_bytes, 0)"
"""What a row of `jobs` counts for, as long as there is one."""


async def count_growth(connection: Connection, tenant_id: UUID, kept_bytes: int) -> None:
    """Count that so much more is kept of a job, in the transaction that makes it longer."""
    if kept_bytes:
        await connection.execute(
            "INSERT INTO tenant_usage (tenant_id, kept_bytes) VALUES ($1, $2)",
            tenant_id,
            kept_bytes,
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
    INSERT INTO tenant_usage (tenant_id, {", ".join(USAGE_COLUMNS)})
    SELECT tenant_id, {", ".join(f"sum({column})" for column in USAGE_COLUMNS)}
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


def _actual(state: JobState) -> LiteralString:
    return f"coalesce(sum(jobs) FILTER (WHERE state = '{state}'), 0) AS {state_column(state)}"


_ACTUAL_JOBS = ", ".join(_actual(state) for state in STATE_COLUMNS)
_DIFFERENCE = ", ".join(
    f"coalesce(actual.{column}, 0) - coalesce(counted.{column}, 0) AS {column}"
    for column in USAGE_COLUMNS
)

# One snapshot has the jobs and the rows that were committed with them, so the difference is exact
# whatever is being written meanwhile.
_MEND = f"""
WITH by_state AS (
    SELECT tenant_id, state, count(*) AS jobs, sum({KEPT_OF_JOB}) AS kept_bytes
    FROM jobs GROUP BY tenant_id, state
), actual AS (
    SELECT tenant_id,
           coalesce(sum(jobs) FILTER (WHERE state IN {state_list(WAITING)}), 0) AS waiting_jobs,
           sum(kept_bytes) AS kept_bytes, {_ACTUAL_JOBS}
    FROM by_state GROUP BY tenant_id
), counted AS (
    SELECT tenant_id, {", ".join(f"sum({column}) AS {column}" for column in USAGE_COLUMNS)}
    FROM tenant_usage GROUP BY tenant_id
), difference AS (
    SELECT tenant_id, {_DIFFERENCE} FROM actual FULL JOIN counted USING (tenant_id)
)
INSERT INTO tenant_usage (tenant_id, {", ".join(USAGE_COLUMNS)})
SELECT * FROM difference
WHERE ({", ".join(USAGE_COLUMNS)}) <> ({", ".join("0" for _ in USAGE_COLUMNS)})
RETURNING tenant_id, {", ".join(USAGE_COLUMNS)}
"""


async def mend(connection: Session) -> dict[UUID, dict[str, int]]:
    """Compare every tenant's counts with its jobs, and correct them; what was added to each.

    It reads all jobs. While another one does so there is nothing to do.
    """
    async with connection.transaction():
        # Before the snapshot: two who see the same difference would both add it.
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _MEND_LOCK):
            return {}
        await connection.execute(f"SET LOCAL statement_timeout = '{MEND_SECONDS:.0f}s'")
        rows = await connection.fetch(_MEND, timeout=MEND_SECONDS + 1)
        return {
            row["tenant_id"]: {column: row[column] for column in USAGE_COLUMNS if row[column]}
            for row in rows
        }
