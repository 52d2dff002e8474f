"""The jobs that scenarios make for themselves."""

import random
from collections import Counter
from typing import get_args

from taskflow_chaos.handlers import Poison
from taskflow_chaos.scenarios import c15_clocks, c16_poison, c18_cancel_race
from taskflow_chaos.workload import Mix, plan

PLAN = plan(seed=3, count=2_000, mix=Mix(cancelled=0.5))


def test_options_are_members_of_the_request_beside_type_and_payload() -> None:
    job = c16_poison.with_poison(PLAN)[50]
    assert job.body() == {
        "type": job.type,
        "payload": {"seconds": job.seconds, "behaviour": job.behaviour},
        "max_attempts": 4,
    }


def test_one_job_in_a_hundred_is_poison_in_every_way_that_there_is() -> None:
    jobs = c16_poison.with_poison(PLAN)
    poison = [job for job in jobs if job.behaviour in get_args(Poison)]
    assert len(poison) == 20
    kinds = {(job.type, job.behaviour) for job in poison}
    assert len(kinds) == 2 * len(get_args(Poison))
    assert [job.key for job in jobs] == [job.key for job in PLAN]


def test_handlers_of_each_type_meet_each_contest_at_about_their_end() -> None:
    rng = random.Random(5)
    jobs = [c18_cancel_race.contested(number, job, rng) for number, job in enumerate(PLAN)]
    contests = Counter(
        (job.type, job.cancel_after_seconds is not None, "timeout_seconds" in job.options)
        for job in jobs
    )
    assert len(contests) == 3 * len(c18_cancel_race.TYPES)
    assert min(contests.values()) >= len(jobs) // 10
    assert all(
        abs(job.cancel_after_seconds - job.seconds) < 1
        for job in jobs
        if job.cancel_after_seconds is not None
    )


def test_no_job_that_is_to_expire_is_cancelled_or_can_begin() -> None:
    jobs = [c15_clocks.with_time(number, job) for number, job in enumerate(PLAN)]
    expiring = [job for job in jobs if job.options.get("queue") == c15_clocks.NOBODYS_QUEUE]
    assert len(expiring) == len(jobs) // 20
    assert all(job.cancel_after_seconds is None for job in expiring)
    assert all("ttl_seconds" in job.options for job in expiring)
    assert sum("delay_seconds" in job.options for job in jobs) == len(jobs) // 20
