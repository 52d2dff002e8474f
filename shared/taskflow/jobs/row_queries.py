"""Jobs' rows by their ids: one, or many small ones at once."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import RowMapping, Uuid, bindparam, case, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow.db.models import jobs
from taskflow.errors import JobNotFound

# A checkpoint is its handler's own, and may be larger than all the rest.
SHOWN = tuple(column for column in jobs.c if column is not jobs.c.checkpoint)
"""The columns of a row as it is read for requests."""

# Composed once: that takes as long as the statement.
_GET = select(*SHOWN).where(
    jobs.c.tenant_id == bindparam("tenant_id"), jobs.c.id == bindparam("job_id")
)
_SIZE = (
    jobs.c.payload_bytes
    + jobs.c.attribute_bytes
    + case((jobs.c.result_object.is_(None), func.coalesce(jobs.c.result_bytes, 0)), else_=0)
)
# The limit has each looked for by its id: joined, they would be looked for among all that the
# tenant has, where the planner doesn't know yet how many these are. Nor does it see how many ids
# there are, or it would plan each look anew.
_IDS = select(func.unnest(bindparam("job_ids", type_=ARRAY(Uuid())))).scalar_subquery()
_WANTED = func.unnest(func.array(_IDS)).table_valued("id").render_derived("wanted")
_SMALL = (
    select(*SHOWN)
    .where(
        jobs.c.id == _WANTED.c.id,
        jobs.c.tenant_id == bindparam("tenant_id"),
        bindparam("largest_bytes") >= _SIZE,
    )
    .limit(1)
    .lateral("small")
)
_GET_SMALL = select(_SMALL).select_from(_WANTED.join(_SMALL, true()))


async def get_job(connection: AsyncConnection, tenant_id: UUID, job_id: UUID) -> RowMapping:
    """A job's row.

    Raises:
        JobNotFound: this tenant has no such job.
    """
    wanted = {"tenant_id": tenant_id, "job_id": job_id}
    row = (await connection.execute(_GET, wanted)).mappings().one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return row


async def get_small_jobs(
    connection: AsyncConnection, tenant_id: UUID, job_ids: Collection[UUID], *, largest_bytes: int
) -> dict[UUID, RowMapping]:
    """The rows of those of these jobs that the tenant has and that are no larger, by their ids."""
    wanted = {"tenant_id": tenant_id, "job_ids": list(job_ids), "largest_bytes": largest_bytes}
    rows = (await connection.execute(_GET_SMALL, wanted)).mappings().all()
    return {row["id"]: row for row in rows}
