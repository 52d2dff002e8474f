"""Deletes records that have served: what no longer binds, opens nothing or was kept long enough."""

import structlog

from taskflow.access.upkeep import (
    prune_api_keys,
    prune_audit_log,
    prune_refresh_tokens,
    prune_sessions,
)
from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.upkeep import prune_idempotency_keys, prune_workers
from taskflow.settings import RetentionSettings

log = structlog.get_logger(__name__)


class PruneRecords:
    """Prunes in slices."""

    def __init__(self, database: Database, settings: RetentionSettings) -> None:
        self._database = database
        self._audit_days = settings.retention_audit_days
        self._keys_days = settings.retention_keys_days
        self._sessions_days = settings.retention_sessions_days

    async def round(self) -> bool:
        """Prune one slice of each; whether there is more."""
        async with self._database.connection() as connection:
            pruned = {
                "idempotency_keys": await prune_idempotency_keys(connection),
                "workers": await prune_workers(connection),
                "refresh_tokens": await prune_refresh_tokens(connection, days=self._sessions_days),
                "sessions": await prune_sessions(connection, days=self._sessions_days),
                "api_keys": await prune_api_keys(connection, days=self._keys_days),
                "audit_log": await prune_audit_log(connection, days=self._audit_days),
            }
        if any(pruned.values()):
            log.info("records_pruned", **pruned)
        return SLICE in pruned.values()
