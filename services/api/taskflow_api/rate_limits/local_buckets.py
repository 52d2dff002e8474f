"""The buckets of this process alone, for the time in which Redis is away."""

import time
from collections import OrderedDict

from taskflow_api.rate_limits.bucket import take
from taskflow_api.rate_limits.takes import Bucket, Take, Taken

MAX_BUCKETS = 10_000
"""Beyond it those that were used longest ago are forgotten, and are full again."""


def monotonic_ms() -> int:
    """A clock that is never set (milliseconds)."""
    return time.monotonic_ns() // 1_000_000


class LocalBuckets:
    """Takes tokens as the shared buckets do, by this process's clock."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """What each owed, and when (ms)."""

    def take(self, wanted: Take) -> Taken:
        """Take tokens."""
        now_ms = monotonic_ms()
        held = [(bucket.policy, self._debt(bucket, now_ms)) for bucket in wanted.buckets]
        granted, debts = take(held, wanted.cost)
        for bucket, debt in zip(wanted.buckets, debts, strict=True):
            self._buckets.pop(bucket.key, None)
            if debt:
                self._buckets[bucket.key] = (debt, now_ms)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return Taken(wanted, granted, debts)

    def _debt(self, bucket: Bucket, now_ms: int) -> int:
        debt, at_ms = self._buckets.get(bucket.key, (0, now_ms))
        return bucket.policy.debt_after(debt, now_ms - at_ms)
