"""A token bucket in whole numbers, so that nothing is ever rounded away; `take.lua` counts alike.

A bucket is what it owes: each token that is taken adds the window's milliseconds, and each
millisecond that passes pays back as much as the quota. One that owes nothing is full.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

MS = 1_000


@dataclass(frozen=True)
class Policy:
    """How many tokens a bucket holds, and the seconds in which an empty one fills up."""

    name: str
    quota: int
    window_seconds: int

    @cached_property
    def header(self) -> str:
        """What clients are told of it."""
        return f'"{self.name}";q={self.quota};w={self.window_seconds}'

    @property
    def window_ms(self) -> int:
        """What one token owes."""
        return self.window_seconds * MS

    @property
    def most_debt(self) -> int:
        """What an empty bucket owes."""
        return self.quota * self.window_ms

    def debt_after(self, debt: int, elapsed_ms: int) -> int:
        """What is left of a debt; a clock that went back pays nothing."""
        return max(0, debt - max(0, min(elapsed_ms, self.window_ms)) * self.quota)

    def price(self, cost: int) -> int:
        """What so many tokens owe; more than the bucket holds are as many as it holds."""
        return min(cost, self.quota) * self.window_ms

    def tokens_left(self, debt: int) -> int:
        """Whole tokens that are in the bucket."""
        return (self.most_debt - debt) // self.window_ms

    def more_in_ms(self, debt: int) -> int:
        """How long until there is a token more; 0 for a full bucket."""
        missing = (debt - 1) % self.window_ms + 1 if debt else 0
        return -(-missing // self.quota)

    def enough_in_ms(self, debt: int, cost: int) -> int:
        """How long until so many tokens are there."""
        return -(-max(0, debt + self.price(cost) - self.most_debt) // self.quota)

    def share(self, share: float) -> "Policy":
        """The same with a share of the quota, of at least one token."""
        return Policy(self.name, max(1, int(self.quota * share)), self.window_seconds)


def take(held: Sequence[tuple[Policy, int]], cost: int) -> tuple[bool, list[int]]:
    """Take from all of these buckets, or from none: whether it was done, and what they owe then.

    `held` are the buckets' policies with what they owe now.
    """
    owed = [debt + policy.price(cost) for policy, debt in held]
    if all(debt <= policy.most_debt for debt, (policy, _) in zip(owed, held, strict=True)):
        return True, owed
    return False, [debt for _, debt in held]
