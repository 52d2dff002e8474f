from collections import Counter

import pytest

from taskflow_chaos.workload import Duration, Mix, plan


def test_a_seed_gives_the_same_jobs_again_and_another_seed_others() -> None:
    assert plan(7, 300) == plan(7, 300)
    assert [job.seconds for job in plan(7, 300)] != [job.seconds for job in plan(8, 300)]


def test_shares_are_met_exactly() -> None:
    jobs = plan(1, 1000)
    behaviours = Counter(job.behaviour for job in jobs)
    assert (behaviours["fails_once"], behaviours["kills_worker"]) == (50, 10)
    assert sum(job.cancel_after_seconds is not None for job in jobs) == 10
    assert sum(job.is_sent_twice for job in jobs) == 20
    assert sum(job.type == "chaos.thread" for job in jobs) == 200
    assert sum(job.seconds <= 0.05 for job in jobs) == 800
    assert sum(1 <= job.seconds <= 3 for job in jobs) == 150
    assert sum(job.seconds == 10 for job in jobs) == 50


def test_every_job_has_a_key_of_its_own() -> None:
    assert len({job.key for job in plan(1, 1000)}) == 1000


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_a_few_jobs_are_as_many_as_asked_for(count: int) -> None:
    halves = Mix(durations=(Duration(0.5, 1, 1), Duration(0.5, 2, 2)))
    jobs = plan(1, count, halves)
    assert len(jobs) == count
    assert {job.seconds for job in jobs} <= {1.0, 2.0}
