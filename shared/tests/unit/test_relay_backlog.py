import asyncio
import time
from collections import deque

from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.relay_backlog import Backlog, Batch, Destination

MUTE, OTHER = Lane("mute", Priority.LOW), Lane("other", Priority.LOW)


def taken(backlog: Backlog[int]) -> list[int]:
    items = []
    while found := backlog.take():
        items.append(found[1])
    return items


def test_the_oldest_come_first_whatever_their_destination() -> None:
    backlog: Backlog[int] = Backlog(window=10)
    for number in range(6):
        backlog.add(OTHER if number % 3 else MUTE, number)
    assert len(backlog) == 6
    assert taken(backlog) == [0, 1, 2, 3, 4, 5]
    assert len(backlog) == 0


def test_a_destination_has_half_the_window_under_way_and_the_next_when_one_ends() -> None:
    backlog: Backlog[int] = Backlog(window=4)
    for number in range(5):
        backlog.add(MUTE, number)
    backlog.add(OTHER, 5)
    assert taken(backlog) == [0, 1, 5]
    backlog.note_end(OTHER)
    assert taken(backlog) == []
    backlog.note_end(MUTE)
    assert taken(backlog) == [2]
    assert backlog.destinations == {MUTE}
    assert backlog.drop(MUTE) == [3, 4]
    assert backlog.drop(MUTE) == []
    assert len(backlog) == 0
    assert backlog.destinations == {MUTE}  # Two are under way.
    backlog.note_end(MUTE)
    backlog.note_end(MUTE)
    assert backlog.destinations == set()


def test_several_destinations_that_answer_nothing_leave_room_for_another() -> None:
    backlog: Backlog[int] = Backlog(window=16)
    for name in "abc":
        for number in range(16):
            backlog.add(name, number)
    assert len(taken(backlog)) == 8 + 4 + 2
    backlog.add(OTHER, 16)
    assert taken(backlog) == [16]


def test_what_was_dropped_does_not_come_back() -> None:
    backlog: Backlog[int] = Backlog(window=10)
    for number in range(4):
        backlog.add(MUTE if number % 2 else OTHER, number)
    assert backlog.drop(MUTE) == [1, 3]
    backlog.add(MUTE, 4)
    assert taken(backlog) == [0, 2, 4]


def test_thousands_of_destinations_cost_little_more_than_one() -> None:
    backlog: Backlog[int] = Backlog(window=200)
    for number in range(6000):
        backlog.add(Lane(f"queue{number % 3000}", Priority.LOW), number)
    began_at, under_way, items = time.process_time(), deque[Destination](), []
    while found := backlog.take():
        items.append(found[1])
        under_way.append(found[0])
        if len(under_way) > 100:
            backlog.note_end(under_way.popleft())
    assert items == list(range(6000))
    assert time.process_time() - began_at < 2


async def test_a_batch_ends_with_its_last_and_an_empty_one_at_once() -> None:
    await Batch(0).wait()
    batch = Batch(2)
    waits = asyncio.ensure_future(batch.wait())
    batch.note_end()
    await asyncio.sleep(0)
    assert not waits.done()
    batch.note_end()
    await waits
