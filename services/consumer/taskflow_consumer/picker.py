"""Which lane is served next: strictly by priority, but none is passed over for ever."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority

PATIENCE = 10
"""How often a lane that is not empty may be passed over before it is served first."""

URGENCY = {priority: rank for rank, priority in enumerate(Priority)}
"""Higher is served sooner."""


class Buffer(Protocol):
    """Messages of one lane, oldest first."""

    @property
    def lane(self) -> Lane:
        """Whose messages they are."""
        ...

    def __len__(self) -> int: ...


BufferType = TypeVar("BufferType", bound=Buffer)


@dataclass(slots=True)
class _Place(Generic[BufferType]):
    buffer: BufferType
    passed_over: int = 0
    last_served: int = 0

    @property
    def urgency(self) -> int:
        return URGENCY[self.buffer.lane.priority]


class Picker(Generic[BufferType]):
    """Chooses lanes; among queues of one priority the one served longest ago is next."""

    def __init__(self, buffers: Iterable[BufferType]) -> None:
        self._places = [_Place(buffer) for buffer in buffers]
        self._turn = 0

    def pick(self, count: int) -> list[tuple[BufferType, int]]:
        """How many messages to take from which buffer, `count` in all or what there is.

        The lanes come in the order of their first choice. Nothing is taken here.
        """
        planned: dict[int, int] = {}
        for _ in range(count):
            waiting = [
                (index, place)
                for index, place in enumerate(self._places)
                if len(place.buffer) > planned.get(index, 0)
            ]
            if not waiting:
                break
            index = self._choose(waiting)
            planned[index] = planned.get(index, 0) + 1
        return [(self._places[index].buffer, number) for index, number in planned.items()]

    def _choose(self, waiting: Sequence[tuple[int, _Place[BufferType]]]) -> int:
        starving = [item for item in waiting if item[1].passed_over >= PATIENCE]
        if starving:
            index, chosen = min(starving, key=lambda item: (item[1].urgency, item[1].last_served))
        else:
            index, chosen = min(waiting, key=lambda item: (-item[1].urgency, item[1].last_served))
        for _, place in waiting:
            place.passed_over += 1
        chosen.passed_over = 0
        self._turn += 1
        chosen.last_served = self._turn
        return index
