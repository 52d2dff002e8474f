"""Keeps the counts of what tenants use: in few rows, and as their jobs have it."""

import structlog

from taskflow.db.pool import Database
from taskflow.jobs.usage import fold, mend

log = structlog.get_logger(__name__)


class FoldCounts:
    """Makes one row of many."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def round(self) -> bool:
        """Fold what has become much; what is added meanwhile is left to the next round."""
        async with self._database.connection() as connection:
            await fold(connection)
        return False


class MendCounts:
    """Compares the counts with the jobs; `mended` is how many tenants' were wrong.

    They are written with the jobs, so only what goes around that makes them drift: a process of a
    version that doesn't count, a hand in the database.
    """

    def __init__(self, database: Database) -> None:
        self.mended = 0
        self._database = database

    async def round(self) -> bool:
        """Compare all, correct what differs; there is never more."""
        async with self._database.connection() as connection:
            differences = await mend(connection)
        self.mended += len(differences)
        for tenant_id, difference in differences.items():
            log.warning("counts_mended", tenant_id=str(tenant_id), **difference)
        return False
