"""How much a tenant, and each of its keys, may ask."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from uuid import UUID

from redis.asyncio import Redis

from taskflow.settings import LimitSettings
from taskflow_api.auth import Principal
from taskflow_api.rate_limits.bucket import Policy
from taskflow_api.rate_limits.local_buckets import LocalBuckets
from taskflow_api.rate_limits.shared_buckets import SharedBuckets, SharedBucketsAway
from taskflow_api.rate_limits.takes import Bucket, Take, Taken

_MAX_CALLERS = 4_096
"""Whose buckets are remembered, so that they are named once and not for each request."""


class RateLimits:
    """Buckets in Redis; while it is away, this process's own with a share of the quota."""

    def __init__(
        self,
        redis: Redis,
        settings: LimitSettings,
        *,
        on_away: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """`on_away`: told when Redis has failed."""
        self._tenant = _policy(
            "default", settings.tenant_limit_requests, settings.tenant_limit_seconds
        )
        self._key = _policy("key", settings.key_limit_requests, settings.key_limit_seconds)
        self._local_share = settings.limit_local_share
        self._shared = SharedBuckets(redis, on_away=on_away)
        self._local = LocalBuckets()
        self._buckets_of = lru_cache(_MAX_CALLERS)(self._name_buckets)

    async def take(self, caller: Principal, *, cost: int = 1) -> Taken | None:
        """Take so many tokens of the caller's; None where nothing limits it."""
        return await self.take_from(self._buckets_of(caller.tenant_id, caller.key_id), cost=cost)

    def most_at_once(self, caller: Principal) -> int | None:
        """How many tokens the caller can have in one request; None where nothing limits it."""
        return min(
            (bucket.policy.quota for bucket in self._buckets_of(caller.tenant_id, caller.key_id)),
            default=None,
        )

    async def take_from(self, buckets: Sequence[Bucket], *, cost: int = 1) -> Taken | None:
        """Take so many tokens from all of these buckets or from none; None where there are none."""
        if not buckets:
            return None
        try:
            return await self._shared.take(Take(buckets, cost))
        except SharedBucketsAway:
            share = self._local_share
            own = [Bucket(bucket.policy.share(share), bucket.owner) for bucket in buckets]
            return self._local.take(Take(own, cost))

    async def close(self) -> None:
        """Ask Redis no more."""
        await self._shared.close()

    def _name_buckets(self, tenant_id: UUID, key_id: str | None) -> Sequence[Bucket]:
        buckets = []
        if self._tenant is not None:
            buckets.append(Bucket(self._tenant, str(tenant_id)))
        if self._key is not None and key_id is not None:
            buckets.append(Bucket(self._key, key_id))
        return buckets


def _policy(name: str, requests: int, seconds: int) -> Policy | None:
    return Policy(name, requests, seconds) if requests else None
