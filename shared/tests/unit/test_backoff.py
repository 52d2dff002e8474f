import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.backoff import LADDER_SECONDS, LADDER_TOP_SECONDS, Backoff, rung_for

UNITS = st.floats(0, 1, exclude_max=True)
BACKOFFS = st.builds(
    Backoff,
    base_seconds=st.floats(0.01, 100),
    factor=st.floats(1, 100),
    cap_seconds=st.floats(100, 1e9),
    jitter=st.floats(0, 0.99),
)


def test_by_default_it_doubles_from_a_second_to_half_an_hour() -> None:
    backoff = Backoff(jitter=0)
    assert [backoff.delay_seconds(n, 0.5) for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert backoff.delay_seconds(50, 0.5) == 1800


@given(BACKOFFS, st.integers(-5, 10_000), UNITS)
def test_a_delay_is_positive_and_never_above_the_cap(
    backoff: Backoff, failures: int, unit: float
) -> None:
    assert 0 < backoff.delay_seconds(failures, unit) <= backoff.cap_seconds


@given(BACKOFFS, st.integers(1, 1_000), UNITS)
def test_the_jitter_stays_within_its_share(backoff: Backoff, failures: int, unit: float) -> None:
    middle = backoff.delay_seconds(failures, 0.5)
    delay = backoff.delay_seconds(failures, unit)
    # What rounding adds may be more than the smallest of shares.
    assert abs(delay - middle) <= middle * (backoff.jitter + 1e-9)


@given(BACKOFFS, st.integers(1, 1_000), UNITS)
def test_it_never_shrinks_with_more_failures(backoff: Backoff, failures: int, unit: float) -> None:
    assert backoff.delay_seconds(failures + 1, unit) >= backoff.delay_seconds(failures, unit)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_seconds": 0},
        {"base_seconds": math.nan},
        {"cap_seconds": 0.5},
        {"cap_seconds": math.inf},
        {"factor": 0.9},
        {"factor": math.nan},
        {"jitter": 1},
        {"jitter": -0.1},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(**wrong)


@given(st.floats(0, LADDER_TOP_SECONDS))
def test_a_delay_is_walked_down_the_ladder_to_about_a_second(delay: float) -> None:
    waited, steps = 0.0, 0
    while waited < delay:
        waited += rung_for(delay - waited)
        steps += 1
    assert waited - delay <= LADDER_SECONDS[0]
    assert steps <= 20
