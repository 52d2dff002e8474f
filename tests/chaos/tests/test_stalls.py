import pytest

from taskflow_chaos.scenarios.c06_broker_cluster import stalls


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], []),
        ([(0.0, 1.0)], [1.0]),
        ([(0.0, 1.0), (10.0, 11.0)], [1.0, 1.0]),
        # One that waits while others are taken is no stall.
        ([(0.0, 30.0), (0.0, 10.0), (15.0, 20.0)], [10.0, 10.0, 10.0]),
        ([(0.0, 1.0), (2.0, 25.0), (3.0, 25.0), (24.0, 26.0)], [1.0, 23.0, 0.0, 1.0]),
    ],
)
def test_a_stall_is_time_in_which_jobs_wait_and_none_is_taken(
    jobs: list[tuple[float, float]], expected: list[float]
) -> None:
    assert stalls(jobs) == expected
