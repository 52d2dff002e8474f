"""The seconds that a consumer has once its jobs have ended, shared by all that must write."""

import asyncio
from collections.abc import Coroutine
from typing import Any

LAST_WORDS_SECONDS = 10.0
"""In all, for outcomes, logs and pointers, from the end of the grace on."""
AT_ONCE_SECONDS = 4.0
"""In all, when the end was asked for a second time."""
LEAST_SECONDS = 0.5
"""What each gets even if those before it have used up the time."""
STEP_SECONDS = 0.1


class LastWords:
    """One deadline for all: with every server away a consumer must end in time all the same.

    Whoever supervises it kills it some time after the grace, and then nothing is written at all.
    """

    def __init__(self) -> None:
        self._ends_at: float | None = None

    def begin(self, seconds: float = LAST_WORDS_SECONDS) -> None:
        """Set the deadline; again may only bring it forward."""
        ends_at = asyncio.get_running_loop().time() + seconds
        self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)

    def left(self) -> float:
        """How many seconds whoever asks may take."""
        if self._ends_at is None:
            self.begin()
        now = asyncio.get_running_loop().time()
        return max((self._ends_at or now) - now, LEAST_SECONDS)

    async def bound(self, work: Coroutine[Any, Any, object]) -> bool:
        """Do `work` within what is left; whether it came to its end.

        What doesn't is cancelled and not waited for: giving a connection back can take long, too.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=LEAST_SECONDS)
            # In steps, since the deadline may be brought forward.
            while not task.done() and self.left() > LEAST_SECONDS:
                await asyncio.wait({task}, timeout=STEP_SECONDS)
        finally:
            task.cancel()
        if not task.done():
            task.add_done_callback(_look_at)
            return False
        if task.cancelled():
            # By a library that gave its connection up; it must not end whoever comes next.
            return False
        task.result()
        return True


def _look_at(task: "asyncio.Task[object]") -> None:
    """Whoever wanted to know has gone; asyncio complains of an exception that nobody sees."""
    if not task.cancelled():
        task.exception()
