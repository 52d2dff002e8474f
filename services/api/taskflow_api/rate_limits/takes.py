"""What is asked of buckets, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from taskflow_api.rate_limits.bucket import MS, Policy


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket of one caller."""

    policy: Policy
    owner: str

    @property
    def key(self) -> str:
        """Where it is kept. Another policy has other buckets: what one owes is in its own units."""
        policy = self.policy
        return f"taskflow:limit:{policy.name}:{policy.quota}/{policy.window_seconds}:{self.owner}"


@dataclass(frozen=True, slots=True)
class Take:
    """So many tokens, wanted from each of these buckets or from none."""

    buckets: Sequence[Bucket]
    cost: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether they were had, and what each bucket owes now."""

    take: Take
    granted: bool
    debts: Sequence[int]

    def headers(self) -> list[tuple[str, str]]:
        """What clients are told (draft-ietf-httpapi-ratelimit-headers-10)."""
        held = [
            (bucket.policy, debt)
            for bucket, debt in zip(self.take.buckets, self.debts, strict=True)
        ]
        policies = (f'"{p.name}";q={p.quota};w={p.window_seconds}' for p, _ in held)
        limits = (
            f'"{p.name}";r={p.tokens_left(debt)};t={_seconds(p.more_in_ms(debt))}'
            for p, debt in held
        )
        return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(limits))]

    def retry_after_seconds(self, cost: int | None = None) -> int:
        """When there will be enough in every bucket, if nobody else takes from them.

        Enough for what was wanted, or for `cost` tokens.
        """
        wanted = self.take.cost if cost is None else cost
        waits = (
            bucket.policy.enough_in_ms(debt, wanted)
            for bucket, debt in zip(self.take.buckets, self.debts, strict=True)
        )
        return max(1, _seconds(max(waits)))


def _seconds(ms: int) -> int:
    return -(-ms // MS)
