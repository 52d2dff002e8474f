"""Results that are too large for their rows, from the object store by way of the cache."""

from uuid import UUID

from taskflow.artifacts import ArtifactStore
from taskflow_api.cache.cache import Cache
from taskflow_api.storage_patience import storage_patience


class Results:
    """Reads them as stored; an object may be sealed anew, but its key stands for one result."""

    def __init__(self, artifacts: ArtifactStore, cache: Cache) -> None:
        self._artifacts = artifacts
        self._cache = cache

    async def read(self, tenant_id: UUID, object_key: str) -> bytes:
        """A result's JSON, for who has just read in the job's row that this is its object.

        Raises:
            ObjectMissing: it is gone.
            ServiceUnavailable: the object storage is away or slow.
        """

        async def load() -> bytes:
            async with storage_patience():
                return await self._artifacts.read(tenant_id, object_key)

        return await self._cache.get(tenant_id, f"result:{object_key}", load)
