"""Rows of jobs as requests read them: small ones of a tenant many at once, large ones alone."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import structlog

from taskflow.jobs.row_queries import get_job, get_small_jobs
from taskflow_api.database_access import Reads
from taskflow_api.joined_reads import GatheredReads

JobRow = Mapping[Any, Any]
"""A row of `jobs`."""

ROWS_AT_ONCE = 25
SMALL_BYTES = 8 * 1024
"""By what is counted of a job. What has been read is parsed in one go, in which nobody else is
served, and takes a multiple of its size in memory."""

log = structlog.get_logger(__name__)


class JobRows:
    """Reads rows, each as it is at some moment since it was asked for."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._small: GatheredReads[UUID, UUID, JobRow] = GatheredReads(
            self.read_small, at_once=ROWS_AT_ONCE
        )

    async def read(self, tenant_id: UUID, job_id: UUID) -> JobRow:
        """A job's row, without its checkpoint.

        Raises:
            JobNotFound: this tenant has no such job.
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        row = await self._small.get(tenant_id, job_id)
        return row or await self.read_alone(tenant_id, job_id)

    async def read_alone(self, tenant_id: UUID, job_id: UUID) -> JobRow:
        """As `read`, of a job that isn't small."""
        async with self._reads.connection(tenant_id) as connection:
            return await get_job(connection, tenant_id, job_id)

    async def read_small(self, tenant_id: UUID, job_ids: Collection[UUID]) -> Mapping[UUID, JobRow]:
        """The rows of those of up to `ROWS_AT_ONCE` jobs that are there, and small.

        No row at all where one of them can't be parsed: alone each is what it is.

        Raises:
            ServiceUnavailable: PostgreSQL can't be asked.
        """
        try:
            async with self._reads.connection(tenant_id) as connection:
                return await get_small_jobs(
                    connection, tenant_id, job_ids, largest_bytes=SMALL_BYTES
                )
        except (ValueError, RecursionError) as error:
            # JSON that PostgreSQL takes and Python doesn't: a number of 5,000 digits.
            log.warning("rows_unreadable_together", jobs=len(job_ids), error=repr(error)[:200])
            return {}
