"""How long a failed job waits, and over which rungs of the broker's ladder it is carried there."""

import math
from dataclasses import dataclass

LADDER_SECONDS = (1, 5, 15, 60, 300, 1800)
"""The fixed delays that the broker's retry queues offer, in seconds, shortest first."""

LADDER_TOP_SECONDS = LADDER_SECONDS[-1]
"""A longer delay waits in PostgreSQL instead."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with proportional jitter; all times in seconds.

    Raises:
        ValueError: a value is out of its range.
    """

    base_seconds: float = 1.0
    factor: float = 2.0
    cap_seconds: float = 1800.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.base_seconds <= self.cap_seconds < math.inf:
            raise ValueError("backoff needs 0 < base_seconds <= cap_seconds, both finite")
        if not self.factor >= 1:
            raise ValueError("backoff needs factor >= 1")
        if not 0 <= self.jitter < 1:
            raise ValueError("backoff needs 0 <= jitter < 1")

    def delay_seconds(self, failures: int, random_unit: float) -> float:
        """The wait after the `failures`-th failure in a row (1 for the first).

        `random_unit` in [0, 1) spreads it evenly over +/- `jitter` of its length, so that jobs
        which failed together don't come back together.
        """
        # Past this exponent any factor above 1 has met any sane cap; it keeps the power finite.
        exponent = min(max(failures, 1) - 1, 64)
        try:
            delay = min(self.base_seconds * self.factor**exponent, self.cap_seconds)
        except OverflowError:
            delay = self.cap_seconds
        spread = 1 + self.jitter * (2 * random_unit - 1)
        return min(delay * spread, self.cap_seconds)


def rung_for(delay_seconds: float) -> int:
    """The rung that a pointer goes to next when `delay_seconds` of its wait remain.

    It is the longest that doesn't overshoot, so repeated steps walk a delay down to within the
    shortest rung of its end.
    """
    fitting = [rung for rung in LADDER_SECONDS if rung <= delay_seconds]
    return fitting[-1] if fitting else LADDER_SECONDS[0]
