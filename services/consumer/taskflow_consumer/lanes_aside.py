"""Lanes whose queues refuse to be consumed, or don't answer: they must not hold up all others."""

import asyncio
from collections.abc import Callable

from taskflow.jobs.lanes import Lane
from taskflow.patience import pause_seconds

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 30.0
"""Each new try may cost the connection, and so a blink of all lanes."""


class LanesAside:
    """Leaves such a lane alone for a while, longer each time in a row; then calls `on_return`."""

    def __init__(self, on_return: Callable[[], None]) -> None:
        self._on_return = on_return
        self._aside: set[Lane] = set()
        self._refusals: dict[Lane, int] = {}

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._aside

    def note_refusal(self, lane: Lane) -> float:
        """Set a lane aside; for how many seconds."""
        refusals = self._refusals[lane] = self._refusals.get(lane, 0) + 1
        seconds = pause_seconds(refusals, first=FIRST_PAUSE_SECONDS, last=LAST_PAUSE_SECONDS)
        self._aside.add(lane)
        asyncio.get_running_loop().call_later(seconds, self._return, lane)
        return seconds

    def note_answer(self, lane: Lane) -> None:
        """Forget what was held against a lane."""
        self._refusals.pop(lane, None)

    def _return(self, lane: Lane) -> None:
        self._aside.discard(lane)
        self._on_return()
