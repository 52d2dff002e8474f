"""A `sys.exit()` in a task that a handler has started ends that task, not the consumer.

asyncio lets SystemExit and KeyboardInterrupt of any task through to whoever runs the loop.
"""

import asyncio
import sys
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from taskflow.sdk.context import current_attempt_log

T = TypeVar("T")


class ContainedExit(Exception):
    """What such a task raises instead; its cause is what it raised."""


def contain_exits() -> None:
    """Contain the exits of jobs that run in this loop, from now on."""
    asyncio.get_running_loop().set_task_factory(_make_task)


def begin(coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task that can't exit, with its first step taken here and now.

    One that needs no second step has ended by then, and the loop never hears of it. Python 3.11
    takes the first step in the loop's next turn.
    """
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(_Contained(coroutine), loop=loop, eager_start=True)
    return asyncio.Task(_Contained(coroutine), loop=loop)


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **settings: Any,
) -> "asyncio.Task[Any]":
    if current_attempt_log.get() is not None and isinstance(coroutine, Coroutine):
        coroutine = _Contained(coroutine)
    return asyncio.Task(coroutine, loop=loop, **settings)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine that can't exit.

    No `async def` around it: one that is cancelled before its first step would leave the inner
    coroutine unawaited.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.__qualname__ = getattr(coroutine, "__qualname__", type(coroutine).__name__)

    def send(self, value: Any) -> Any:
        """Take the next step."""
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise ContainedExit from error

    def throw(self, *error: Any) -> Any:
        """Take the next step with an error."""
        try:
            return self._coroutine.throw(*error)
        except (SystemExit, KeyboardInterrupt) as exit_error:
            raise ContainedExit from exit_error

    def close(self) -> None:
        """Give it up."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()
