"""Natural batching: while one batch is being written, the next one collects.

There is no timer: an idle system writes each item at once, a busy one writes many together
(PostgreSQL's group commit works the same way).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from taskflow.errors import ServiceUnavailable, TaskFlowError

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(slots=True)
class _Waiting(Generic[In, Out]):
    item: In
    answer: asyncio.Future[Out]
    size: int


class BatcherClosed(TaskFlowError):
    """The process is stopping and takes nothing more."""


class Batcher(Generic[In, Out]):
    """Collects items from many callers and hands them to `write` in batches.

    `write` answers each item of its batch, in their order; what it raises is raised to every
    caller of the batch. A caller that is cancelled disturbs no other one: its item is written
    all the same, or, with `skip_cancelled`, left out if its batch has not begun.
    """

    def __init__(
        self,
        write: Callable[[Sequence[In]], Awaitable[Sequence[Out]]],
        *,
        max_items: int,
        max_size: int | None = None,
        size_of: Callable[[In], int] = lambda _: 0,
        writers: int = 1,
        max_waiting: int = 10_000,
        skip_cancelled: bool = False,
    ) -> None:
        """Make a batcher that waits for its first item.

        `max_items` and `max_size` (in the unit of `size_of`) bound a batch, `writers` how many
        are written at once, `max_waiting` the items that may wait.
        """
        self._write = write
        self._max_items = max_items
        self._max_size = max_size
        self._size_of = size_of
        self._max_writers = writers
        self._max_waiting = max_waiting
        self._skip_cancelled = skip_cancelled
        self._waiting: deque[_Waiting[In, Out]] = deque()
        self._writers: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, item: In) -> Out:
        """The answer to `item`.

        Raises:
            ServiceUnavailable: too many items wait.
            BatcherClosed: the batcher is closed.
            Exception: whatever `write` raised for its batch.
        """
        self._refuse_when_full()
        return await self._add(item)

    async def submit_many(self, items: Sequence[In]) -> list[Out | BaseException]:
        """The answer to each of `items`, in their order, or whatever `write` raised for its batch.

        They are taken all or not at all, also if they are more than there was room for.

        Raises:
            ServiceUnavailable: too many items wait.
            BatcherClosed: the batcher is closed.
        """
        self._refuse_when_full()
        return await asyncio.gather(*map(self._add, items), return_exceptions=True)

    def _refuse_when_full(self) -> None:
        if self._closed:
            raise _closed()
        if len(self._waiting) >= self._max_waiting:
            raise ServiceUnavailable("The write queue", f"{self._max_waiting} items wait in it")

    def _add(self, item: In) -> "asyncio.Future[Out]":
        answer: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, answer, self._size_of(item)))
        if len(self._writers) < self._max_writers:
            # It serves many callers, so it carries the context of none.
            writer = asyncio.create_task(
                self._write_batches(), name="batch-writer", context=Context()
            )
            self._writers.add(writer)
        return answer

    async def close(self) -> None:
        """Take nothing more and return when everything is written; again does nothing.

        If the call is cancelled, what is not written by then raises BatcherClosed to its callers.
        """
        self._closed = True
        try:
            while self._writers:
                await asyncio.gather(*self._writers)
        finally:
            _fail(self._waiting, _closed())
            self._waiting.clear()

    async def _write_batches(self) -> None:
        try:
            while batch := self._next_batch():
                await self._write_batch(batch)
        finally:
            # In the same turn as the last look: an item that comes after it needs a new writer.
            self._writers.difference_update({asyncio.current_task()})

    async def _write_batch(self, batch: Sequence[_Waiting[In, Out]]) -> None:
        try:
            answers = await self._write([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 - handed on to the callers
            _fail(batch, error)
        except asyncio.CancelledError:
            _fail(batch, _closed())
            raise
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    def _next_batch(self) -> list[_Waiting[In, Out]]:
        batch: list[_Waiting[In, Out]] = []
        size = 0
        while self._waiting and len(batch) < self._max_items:
            if self._skip_cancelled and self._waiting[0].answer.cancelled():
                self._waiting.popleft()
                continue
            size += self._waiting[0].size
            if batch and self._max_size is not None and size > self._max_size:
                break
            batch.append(self._waiting.popleft())
        return batch


def _fail(items: Iterable[_Waiting[In, Out]], error: Exception) -> None:
    for waiting in items:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)


def _closed() -> BatcherClosed:
    return BatcherClosed("The service is stopping.")
