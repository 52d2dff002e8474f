"""Who keeps the others back is found, in few tries."""

import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.halving import Halving


def searched(
    jobs: int,
    bad: AbstractSet[int],
    goes_on: Callable[[Halving, int], bool],
    answered: Callable[[Sequence[int]], Sequence[int]] = lambda part: part,
) -> tuple[set[int], int]:
    """Which of so many are found, and by how many tries, if each part with a bad one fails.

    `answered`: those of a part that goes through that have their answers by then.
    """
    halving, pending, found, tries = Halving(jobs), list(range(jobs)), set[int](), 0
    while pending:
        tries += 1
        part: Sequence[int] = pending[: halving.at_once]
        if not bad.isdisjoint(part):
            if goes_on(halving, len(part)):
                continue
            found.update(part)
            halving.note_found()
        else:
            part = answered(part)
        pending = [job for job in pending if job not in set(part)]
        halving.note_answered(len(part))
    return found, tries


MANY = st.integers(1, 200)
SOME = st.frozensets(st.integers(0, 199))


@given(MANY, SOME)
def test_each_that_is_in_the_way_is_found(jobs: int, bad: AbstractSet[int]) -> None:
    found, tries = searched(jobs, bad, Halving.goes_on_by_halves)
    assert found == bad & set(range(jobs))
    # One of all, eight of halves of 200, and one that goes through after the last of them.
    assert tries <= 1 + 10 * len(found)


@given(MANY, SOME, st.randoms(use_true_random=False))
def test_so_it_is_where_parts_are_answered_in_part(
    jobs: int, bad: AbstractSet[int], chance: random.Random
) -> None:
    """As of equal unique keys, of which the first is answered before the others."""

    def some(part: Sequence[int]) -> Sequence[int]:
        return chance.sample(part, chance.randint(1, len(part)))

    found, _ = searched(jobs, bad, Halving.goes_on_by_halves, some)
    assert found == bad & set(range(jobs))


def test_what_is_not_answered_is_still_suspected() -> None:
    halving = Halving(100)
    assert halving.goes_on_by_halves(100)
    assert halving.goes_on_by_halves(50)
    assert halving.at_once == 25
    halving.note_answered(10)
    assert halving.at_once == 20
    halving.note_answered(39)
    assert halving.at_once == 1
    halving.note_answered(1)
    assert halving.at_once == 100


@given(MANY, st.frozensets(st.integers(0, 199), max_size=2))
def test_two_that_are_held_up_are_found_and_nobody_else(jobs: int, held: AbstractSet[int]) -> None:
    found, _ = searched(jobs, held, Halving.goes_on_after_wait)
    assert found == held & set(range(jobs))


@given(MANY, SOME)
def test_it_gives_up_in_time(jobs: int, held: AbstractSet[int]) -> None:
    _, tries = searched(jobs, held, Halving.goes_on_after_wait)
    assert tries <= 60
