"""Who keeps the others back is found, in few tries."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.halving import Halving


def searched(
    jobs: int, bad: set[int], goes_on: Callable[[Halving, int], bool]
) -> tuple[set[int], int]:
    """Which of so many are found, and by how many tries, if each part with a bad one fails."""
    halving, pending, found, tries = Halving(jobs), list(range(jobs)), set[int](), 0
    while pending:
        tries += 1
        part = pending[: halving.at_once]
        if bad.intersection(part):
            if goes_on(halving, len(part)):
                continue
            found.update(part)
            halving.note_found()
        pending = pending[len(part) :]
        halving.note_answered(len(part))
    return found, tries


@given(st.integers(1, 200), st.sets(st.integers(0, 199)))
def test_each_that_is_in_the_way_is_found(jobs: int, bad: set[int]) -> None:
    found, tries = searched(jobs, bad, Halving.goes_on_by_halves)
    assert found == bad & set(range(jobs))
    # To halve 200 takes eight steps, each with at most one part that goes through.
    assert tries <= 1 + 17 * len(found)


@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=2))
def test_two_that_are_held_up_are_found_and_nobody_else(jobs: int, held: set[int]) -> None:
    found, _ = searched(jobs, held, Halving.goes_on_after_wait)
    assert found == held & set(range(jobs))


@given(st.integers(1, 200), st.sets(st.integers(0, 199)))
def test_it_gives_up_in_time(jobs: int, held: set[int]) -> None:
    found, tries = searched(jobs, held, Halving.goes_on_after_wait)
    assert found >= held & set(range(jobs))
    assert tries <= 60
