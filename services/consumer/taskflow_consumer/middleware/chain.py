"""The chain of middleware around a handler's call."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from taskflow.jobs.outcomes import Outcome
from taskflow_consumer.middleware.run import Run

Step = Callable[[Run], Coroutine[Any, Any, Outcome | None]]
"""Takes an attempt to its outcome; None: another worker has it now, there is nothing to record."""


class Middleware(Protocol):
    """Does its own part before, after or instead of the next step."""

    def __call__(self, run: Run, /, next_step: Step) -> Coroutine[Any, Any, Outcome | None]:
        """Take an attempt to its outcome."""


def fold(middleware: Sequence[Middleware], innermost: Step) -> Step:
    """One step out of many; the first of `middleware` is the outermost."""
    step = innermost
    for outer in reversed(middleware):
        step = partial(outer, next_step=step)
    return step
