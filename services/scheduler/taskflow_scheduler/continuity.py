"""For how long something has been seen without a gap."""

import time
from collections.abc import Callable


class Continuity:
    """Measures an unbroken series of looks, in seconds.

    Two looks that lie further apart than `longest_gap_seconds` begin a new series: whoever was
    stopped, blocked or not in charge in between has not seen what happened.
    """

    def __init__(
        self, longest_gap_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._longest_gap = longest_gap_seconds
        self._clock = clock
        self._began_at: float | None = None
        self._seen_at = 0.0

    def look(self) -> float:
        """Note a look; how long the series has lasted."""
        now = self._clock()
        if self._began_at is None or now - self._seen_at > self._longest_gap:
            self._began_at = now
        self._seen_at = now
        return now - self._began_at

    def end(self) -> None:
        """End the series; the next look begins another."""
        self._began_at = None
