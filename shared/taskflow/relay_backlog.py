"""What waits to be published: first come, first served, among the destinations with room."""

import asyncio
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from taskflow.jobs.lanes import Lane

Item = TypeVar("Item")
Destination = Lane | str
"""A lane, or the exchange of a rung or of the dead."""


class Batch:
    """What was given in one call, on its way."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._ended = asyncio.Event()
        self.note_end(0)

    def note_end(self, count: int = 1) -> None:
        """So many more have come to their end."""
        self._left -= count
        if not self._left:
            self._ended.set()

    async def wait(self) -> None:
        """Return when each is sent, or given up and written down."""
        await self._ended.wait()


class Backlog(Generic[Item]):
    """Gives out the oldest item of a destination that has fewer under way than `window` has room.

    So each destination that answers nothing leaves half of what it found to the others.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._waiting: dict[Destination, deque[tuple[int, Item]]] = {}
        # The number of each destination's oldest item; those of dropped ones are passed over.
        self._oldest: list[tuple[int, Destination]] = []
        self._under_way: Counter[Destination] = Counter()
        self._numbers = itertools.count()
        self._length = 0

    def __len__(self) -> int:
        """How many wait; those under way don't count."""
        return self._length

    @property
    def under_way(self) -> int:
        """How many were taken and have not come to their end."""
        return self._under_way.total()

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """Those for which something waits or is under way."""
        return self._waiting.keys() | self._under_way.keys()

    def add(self, destination: Destination, item: Item) -> None:
        """Put an item behind all others."""
        number = next(self._numbers)
        queue = self._waiting.setdefault(destination, deque())
        if not queue:
            heapq.heappush(self._oldest, (number, destination))
        queue.append((number, item))
        self._length += 1

    def take(self) -> tuple[Destination, Item] | None:
        """The next item, under way from now on; None: none waits for a destination with room."""
        destination = self._oldest_with_room()
        if destination is None:
            return None
        queue = self._waiting[destination]
        _, item = queue.popleft()
        if queue:
            heapq.heappush(self._oldest, (queue[0][0], destination))
        else:
            del self._waiting[destination]
        self._length -= 1
        self._under_way[destination] += 1
        return destination, item

    def _oldest_with_room(self) -> Destination | None:
        """Taken off the heap. No more are looked at than have items under way, and one."""
        room = self._window - self.under_way
        full: list[tuple[int, Destination]] = []
        found = None
        while room > 0 and self._oldest and found is None:
            number, destination = heapq.heappop(self._oldest)
            queue = self._waiting.get(destination)
            if queue is None or queue[0][0] != number:
                continue
            if self._under_way[destination] < room:
                found = destination
            else:
                full.append((number, destination))
        for each in full:
            heapq.heappush(self._oldest, each)
        return found

    def note_end(self, destination: Destination, count: int = 1) -> None:
        """So many that were under way have come to their end."""
        self._under_way[destination] -= count
        if not self._under_way[destination]:
            del self._under_way[destination]

    def drop(self, destination: Destination) -> list[Item]:
        """Take out all that waits for a destination."""
        dropped = [item for _, item in self._waiting.pop(destination, ())]
        self._length -= len(dropped)
        return dropped
