"""What is asked of buckets, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from taskflow.values import value_type
from taskflow_api.rate_limits.bucket import MS, Policy


@dataclass(frozen=True)
class Bucket:
    """The bucket of one caller."""

    policy: Policy
    owner: str

    @cached_property
    def key(self) -> str:
        """Where it is kept. Another policy has other buckets: what one owes is in its own units."""
        policy = self.policy
        return f"taskflow:limit:{policy.name}:{policy.quota}/{policy.window_seconds}:{self.owner}"


@value_type
class Take:
    """So many tokens, wanted from each of these buckets or from none."""

    buckets: Sequence[Bucket]
    cost: int


@value_type
class Taken:
    """Whether they were had, and what each bucket owes now."""

    take: Take
    granted: bool
    debts: Sequence[int]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What clients are told (draft-ietf-httpapi-ratelimit-headers-10), as ASGI has headers."""
        held = [
            (bucket.policy, debt)
            for bucket, debt in zip(self.take.buckets, self.debts, strict=True)
        ]
        policies = ", ".join([policy.header for policy, _ in held])
        limits = ", ".join(
            [
                f'"{policy.name}";r={policy.tokens_left(debt)};t={_seconds(policy.more_in_ms(debt))}'
                for policy, debt in held
            ]
        )
        return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", limits.encode())]

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
