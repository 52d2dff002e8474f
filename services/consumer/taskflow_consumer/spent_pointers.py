"""Pointers that will find nothing to do: their jobs were started in place of others."""

from collections.abc import Iterable
from uuid import UUID

from taskflow.broker.deliveries import Delivery
from taskflow.broker.message import body_of

MAX_REMEMBERED = 10_000
"""As many as may lie before them in their lanes, in common floods; more have others give way."""


class SpentPointers:
    """Remembers the newest of them, to tell how many of those that have arrived still lead to work.

    One that is forgotten, or whose job another worker has started, counts as if it did: somebody
    may then give way for nothing, and a slot stay empty for a second.
    """

    def __init__(self) -> None:
        self._bodies: dict[bytes, None] = {}

    def add(self, job_ids: Iterable[UUID]) -> None:
        """These jobs run; their own pointers are on their way, or here."""
        self._bodies |= dict.fromkeys(map(body_of, job_ids))
        while len(self._bodies) > MAX_REMEMBERED:
            del self._bodies[next(iter(self._bodies))]

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """These have been looked at: should one of their jobs come again, it is to be run."""
        for delivery in deliveries:
            self._bodies.pop(delivery.body, None)

    def count_others(self, deliveries: Iterable[Delivery]) -> int:
        """How many of `deliveries` are none of them."""
        return sum(delivery.body not in self._bodies for delivery in deliveries)
