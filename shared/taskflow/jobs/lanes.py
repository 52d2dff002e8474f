"""A lane: one line that jobs wait in, by queue and priority."""

from dataclasses import dataclass
from functools import lru_cache

from taskflow.jobs.states import Priority


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue's name and a priority."""

    queue: str
    priority: Priority

    @property
    def key(self) -> str:
        """`<queue>.<priority>`: its routing key in the broker, its name in a worker's row."""
        return f"{self.queue}.{self.priority}"

    @classmethod
    def parse(cls, key: str) -> "Lane":
        """The lane of a key.

        Raises:
            ValueError: it is none.
        """
        queue, separator, priority = key.rpartition(".")
        if not queue or not separator:
            raise ValueError(f"{key!r} is not '<queue>.<priority>'")
        return cls(queue, Priority(priority))


@lru_cache(maxsize=1024)
def lane_of(queue: str, priority: str) -> Lane:
    """The lane of a row: there are few lanes, and many rows."""
    return Lane(queue, Priority(priority))
