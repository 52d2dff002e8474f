"""Deletes records that have served: idempotency keys that no longer bind, workers long gone."""

import structlog

from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.upkeep import prune_idempotency_keys, prune_workers

log = structlog.get_logger(__name__)


class PruneRecords:
    """Prunes in slices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def round(self) -> bool:
        """Prune one slice; whether there is more."""
        async with self._database.connection() as connection:
            keys = await prune_idempotency_keys(connection)
            workers = await prune_workers(connection)
        if keys or workers:
            log.info("records_pruned", idempotency_keys=keys, workers=workers)
        return keys == SLICE
