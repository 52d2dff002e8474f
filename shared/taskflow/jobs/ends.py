"""Which jobs have ended: one look for all who wait, whosever the jobs are."""

from collections.abc import Collection
from uuid import UUID

from taskflow.db.pool import Connection
from taskflow.jobs.guards import state_list
from taskflow.jobs.states import LIVE

_STILL_LIVE = f"SELECT id FROM jobs WHERE id = ANY($1::uuid[]) AND state IN {state_list(LIVE)}"


async def ended_among(connection: Connection, job_ids: Collection[UUID]) -> set[UUID]:
    """Those of these jobs that have ended, or are gone."""
    asked = list(job_ids)
    return set(asked) - {row["id"] for row in await connection.fetch(_STILL_LIVE, asked)}
