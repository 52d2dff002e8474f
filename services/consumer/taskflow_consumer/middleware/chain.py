"""The chain of middleware around a handler's call."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from taskflow.jobs.outcomes import Outcome
from taskflow_consumer.middleware.run import Run

Step = Callable[[Run], Coroutine[Any, Any, Outcome | None]]
"""Takes an attempt to its outcome; None: another worker has it now, there is nothing to record."""

Middleware = Callable[[Run, Step], Coroutine[Any, Any, Outcome | None]]
"""Does its own part before, after or instead of the next step."""


def fold(middleware: Sequence[Middleware], innermost: Step) -> Step:
    """One step out of many; the first of `middleware` is the outermost."""
    step = innermost
    for outer in reversed(middleware):
        step = partial(_through, outer, step)
    return step


async def _through(middleware: Middleware, next_step: Step, run: Run) -> Outcome | None:
    return await middleware(run, next_step)
