from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow_consumer.picker import PATIENCE, Picker


@dataclass(eq=False)
class Stack:
    """A buffer that only counts."""

    lane: Lane
    count: int

    def __len__(self) -> int:
        return self.count


def full_house(count: int = 10_000) -> list[Stack]:
    return [Stack(Lane("default", priority), count) for priority in Priority]


def served(picker: Picker[Stack], turns: int, size: int = 1) -> Counter[Priority]:
    found: Counter[Priority] = Counter()
    for _ in range(turns):
        for stack, number in picker.pick(size):
            stack.count -= number
            found[stack.lane.priority] += number
    return found


def test_the_more_urgent_lane_comes_first() -> None:
    stacks = full_house(3)
    picker = Picker(stacks)
    order = [picker.pick(1)[0][0] for _ in range(1)]
    assert order[0].lane.priority is Priority.URGENT


def test_low_still_moves_in_a_full_house() -> None:
    found = served(Picker(full_house()), 400)
    assert found[Priority.URGENT] > 250
    assert all(found[priority] >= 400 // (PATIENCE * 4) for priority in Priority)


def test_equal_queues_take_turns() -> None:
    stacks = [Stack(Lane(name, Priority.HIGH), 100) for name in ("a", "b", "c")]
    picker = Picker(stacks)
    order = [picker.pick(1)[0][0].lane.queue for _ in range(6)]
    assert order == ["a", "b", "c"] * 2


def test_nothing_waits_nothing_is_picked() -> None:
    assert Picker(full_house(0)).pick(5) == []


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4), st.integers(0, 60))
def test_a_pick_is_as_large_as_it_can_be_and_never_larger(counts: list[int], wanted: int) -> None:
    stacks = [
        Stack(Lane("default", priority), count)
        for priority, count in zip(Priority, counts, strict=True)
    ]
    plan = Picker(stacks).pick(wanted)
    assert sum(number for _, number in plan) == min(wanted, sum(counts))
    assert all(0 < number <= len(stack) for stack, number in plan)


@given(st.lists(st.integers(1, 5), min_size=50, max_size=200))
def test_no_lane_starves_whatever_the_batches(sizes: list[int]) -> None:
    picker = Picker(full_house())
    found: Counter[Priority] = Counter()
    for size in sizes:
        found += served(picker, 1, size)
    assert found[Priority.LOW] >= sum(sizes) // ((PATIENCE + 4) * 4)
