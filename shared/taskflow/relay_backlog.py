"""What waits to be published: first come, first served, among the destinations with room."""

import asyncio
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
        self._under_way: Counter[Destination] = Counter()
        self._numbers = itertools.count()
        self._length = 0

    def __len__(self) -> int:
        """How many wait; those under way don't count."""
        return self._length

    @property
    def destinations(self) -> AbstractSet[Destination]:
        """Those for which something waits or is under way."""
        return self._waiting.keys() | self._under_way.keys()

    def add(self, destination: Destination, item: Item) -> None:
        """Put an item behind all others."""
        queue = self._waiting.setdefault(destination, deque())
        queue.append((next(self._numbers), item))
        self._length += 1

    def take(self) -> tuple[Destination, Item] | None:
        """The next item, under way from now on; None: none waits for a destination with room."""
        room = self._window - self._under_way.total()
        with_room = (each for each in self._waiting if self._under_way[each] < room)
        destination = min(with_room, key=lambda each: self._waiting[each][0][0], default=None)
        if destination is None:
            return None
        queue = self._waiting[destination]
        _, item = queue.popleft()
        if not queue:
            del self._waiting[destination]
        self._length -= 1
        self._under_way[destination] += 1
        return destination, item

    def note_end(self, destination: Destination) -> None:
        """One that was under way has come to its end."""
        self._under_way[destination] -= 1
        if not self._under_way[destination]:
            del self._under_way[destination]

    def drop(self, destination: Destination) -> list[Item]:
        """Take out all that waits for a destination."""
        dropped = [item for _, item in self._waiting.pop(destination, ())]
        self._length -= len(dropped)
        return dropped
