"""Pointers that will find nothing to do: their jobs were started in place of others."""

from collections.abc import Iterable
from uuid import UUID

from taskflow.broker.deliveries import Delivery
from taskflow.broker.message import body_of

MAX_REMEMBERED = 1_000
"""More than the prefetch, so that what has arrived of them is known."""


class SpentPointers:
    """Remembers the newest of them, to tell how many of those that have arrived still lead to work.

    One that is not remembered counts as if it did: others may then have given way for nothing, and
    a slot stays empty for a second.
    """

    def __init__(self) -> None:
        self._bodies: dict[bytes, None] = {}

    def add(self, job_ids: Iterable[UUID]) -> None:
        """These jobs run; their own pointers are on their way, or here."""
        self._bodies |= dict.fromkeys(map(body_of, job_ids))
        for oldest in list(self._bodies)[:-MAX_REMEMBERED]:
            del self._bodies[oldest]

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """These have been looked at: should one of their jobs come again, it is to be run."""
        for delivery in deliveries:
            self._bodies.pop(delivery.body, None)

    def count_others(self, deliveries: Iterable[Delivery]) -> int:
        """How many of `deliveries` are none of them."""
        return sum(delivery.body not in self._bodies for delivery in deliveries)
