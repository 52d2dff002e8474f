"""How much of Redis one process takes for the cache."""

import time
from collections import deque

ENTRY_BYTES = 512
"""What an entry takes beside its value: its name, and what Redis and this process note of it."""


class Room:
    """What is kept takes room until it has ended by itself, whether or not Redis still has it.

    Redis drops what was used longest ago once it is full, the buckets of the limits among it: who
    reads many results must not get new tries to sign in by it.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        """`seconds`: how long a value is kept."""
        self._left = max_bytes
        self._seconds = seconds
        self._taken: deque[tuple[float, int]] = deque()
        """Until when how much is taken."""

    def take(self, value_bytes: int) -> bool:
        """Take room for a value that is kept from now on; False: there is not enough."""
        now = time.monotonic()
        while self._taken and self._taken[0][0] <= now:
            self._left += self._taken.popleft()[1]
        size = value_bytes + ENTRY_BYTES
        if size > self._left:
            return False
        self._left -= size
        self._taken.append((now + self._seconds, size))
        return True
