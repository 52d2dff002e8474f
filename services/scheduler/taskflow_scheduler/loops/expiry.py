"""Ends waiting jobs whose time is over."""

import structlog

from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.upkeep import expire

log = structlog.get_logger(__name__)


class ExpireJobs:
    """Expires in slices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def round(self) -> bool:
        """Expire one slice; whether there is more."""
        async with self._database.connection() as connection:
            expired = await expire(connection)
        if expired:
            log.info("jobs_expired", count=len(expired))
        return len(expired) == SLICE
