"""Removes from the object store what deleted jobs have left there, however long that is away."""

import structlog

from taskflow.artifacts import ArtifactStore
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.erasures import PendingErasure, end_erasure, take_due_erasures
from taskflow.log_store import erase
from taskflow.object_store import ObjectStore

SLICE = 5
"""How many are taken at once: few enough to be done before their next turn."""

_UNREACHABLE: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)

log = structlog.get_logger(__name__)


class EraseObjects:
    """Erases one deleted job after another; `erased` counts them."""

    def __init__(self, database: Database, object_store: ObjectStore) -> None:
        self.erased = 0
        self._database = database
        self._object_store = object_store
        self._artifacts = ArtifactStore(object_store)

    async def round(self) -> bool:
        """Erase one slice; whether there is more.

        Raises:
            Exception: the last one that an erasure ended with; those that failed come again.
        """
        async with self._database.connection() as connection:
            due = await take_due_erasures(connection, limit=SLICE)
        failure: Exception | None = None
        for erasure in due:
            try:
                await self._erase(erasure)
            except Exception as error:
                # One that fails must not keep all that come after it.
                failure = error
                log.warning(
                    "erasure_failed",
                    job_id=str(erasure.job_id),
                    tries=erasure.tries,
                    error=str(error) or type(error).__name__,
                    exc_info=None if isinstance(error, _UNREACHABLE) else error,
                )
        if failure is not None:
            raise failure
        return len(due) == SLICE

    async def _erase(self, erasure: PendingErasure) -> None:
        await self._artifacts.delete_job(erasure.tenant_id, erasure.job_id, erasure.job_created_at)
        await erase(self._database, self._object_store, erasure.log_ranges)
        async with self._database.connection() as connection:
            await end_erasure(connection, erasure)
        self.erased += 1
