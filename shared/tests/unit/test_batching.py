import asyncio
from collections.abc import Sequence

import pytest

from taskflow.batching import Batcher, BatcherClosed
from taskflow.errors import ServiceUnavailable


class Writer:
    """Doubles its items; a batch is written when it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def write(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [item * 2 for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_item_alone_is_written_at_once() -> None:
    writer = Writer()
    writer.gate.set()
    batcher = Batcher(writer.write, max_items=10)
    assert await batcher.submit(3) == 6
    assert writer.batches == [[3]]


async def test_while_one_batch_is_written_the_next_one_collects() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=10)
    calls = [asyncio.create_task(batcher.submit(0))]
    await settle()
    calls += [asyncio.create_task(batcher.submit(n)) for n in range(1, 8)]
    await settle()

    writer.gate.set()

    assert await asyncio.gather(*calls) == [n * 2 for n in range(8)]
    assert writer.batches == [[0], [1, 2, 3, 4, 5, 6, 7]]


async def test_a_batch_is_bounded_by_count_and_by_size() -> None:
    writer = Writer()
    writer.gate.set()
    batcher = Batcher(writer.write, max_items=3, max_size=10, size_of=lambda n: n)
    await asyncio.gather(*(batcher.submit(n) for n in (1, 1, 1, 1, 9, 1, 50, 1)))
    assert writer.batches == [[1, 1, 1], [1, 9], [1], [50], [1]]


async def test_several_writers_write_at_once() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=1, writers=2)
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await settle()
    assert writer.batches == [[0], [1]]
    writer.gate.set()
    await asyncio.gather(*calls)


async def test_an_error_reaches_every_caller_of_its_batch_and_no_other() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=2)
    writer.error = ValueError("no")
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
    await settle()
    writer.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    writer.error = None
    assert await batcher.submit(1) == 2


async def test_a_cancelled_caller_disturbs_no_other() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=5)
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await settle()
    calls[1].cancel()
    await settle()
    writer.gate.set()
    assert await calls[2] == 4
    assert sorted(item for batch in writer.batches for item in batch) == [0, 1, 2]


async def test_a_cancelled_caller_can_be_left_out() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=5, skip_cancelled=True)
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
    await settle()
    waiting = [asyncio.create_task(batcher.submit(n)) for n in range(2, 5)]
    await settle()
    for call in (calls[1], waiting[0], waiting[2]):
        call.cancel()
    await settle()
    writer.gate.set()

    assert [await calls[0], await waiting[1]] == [0, 6]
    # What is being written stays as it is; what has not begun is left out.
    assert writer.batches == [[0, 1], [3]]


async def test_too_many_waiting_is_said_at_once() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=1, max_waiting=1)
    first = asyncio.create_task(batcher.submit(0))
    await settle()
    second = asyncio.create_task(batcher.submit(1))
    await settle()
    with pytest.raises(ServiceUnavailable):
        await batcher.submit(2)
    writer.gate.set()
    assert (await first, await second) == (0, 2)


async def test_many_are_taken_together_and_each_has_its_answer() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=2, max_waiting=1)
    many = asyncio.create_task(batcher.submit_many([1, 2, 3]))
    await settle()
    with pytest.raises(ServiceUnavailable):
        await batcher.submit_many([4])
    writer.error = ValueError("no")
    writer.gate.set()
    said = await many
    writer.error = None
    assert writer.batches == [[1, 2], [3]]
    assert [type(each) for each in said] == [ValueError] * 3
    assert await batcher.submit_many([5, 6, 7]) == [10, 12, 14]


async def test_closing_writes_what_waits_and_takes_nothing_more() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=1)
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await settle()
    closing = asyncio.create_task(batcher.close())
    await settle()
    with pytest.raises(BatcherClosed):
        await batcher.submit(9)
    writer.gate.set()
    await closing
    await batcher.close()
    assert await asyncio.gather(*calls) == [0, 2, 4]


async def test_a_close_that_is_given_up_leaves_no_caller_waiting() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, max_items=1)
    calls = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await settle()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(batcher.close(), 0.01)
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1)
    assert [type(answer) for answer in answers] == [BatcherClosed] * 3


async def test_an_item_that_comes_as_the_last_batch_ends_is_written() -> None:
    async def write(items: Sequence[int]) -> list[int]:
        return list(items)

    batcher = Batcher(write, max_items=10)
    async with asyncio.timeout(5):
        # Each caller is woken in the very turn of the loop in which the writer ends.
        for number in range(10):
            assert await batcher.submit(number) == number
