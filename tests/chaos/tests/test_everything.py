"""The random mix."""

import itertools
import random

import pytest

from taskflow_chaos.fault_lanes import Lane, fault_order, lanes
from taskflow_chaos.scenarios import c19_everything
from taskflow_chaos.workload import plan


@pytest.mark.parametrize("lane", lanes(with_full_disk=True), ids=lambda lane: lane.name)
def test_all_faults_of_a_lane_come_before_one_comes_again(lane: Lane) -> None:
    count = len(lane.faults)
    order = list(itertools.islice(fault_order(lane, random.Random(1)), 2 * count))
    assert set(order[:count]) == set(order[count:]) == set(lane.faults)


def test_a_seed_gives_one_order_and_another_seed_another_one() -> None:
    lane = lanes(with_full_disk=True)[0]
    first, again, other = (
        list(itertools.islice(fault_order(lane, random.Random(seed)), 20)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_no_two_lanes_share_a_fault() -> None:
    names = [fault.name for lane in lanes(with_full_disk=True) for fault in lane.faults]
    assert len(names) == len(set(names))


def test_poison_and_contests_replace_some_jobs_and_keep_their_keys() -> None:
    jobs = plan(seed=1, count=2_000)
    mixed = c19_everything.with_poison_and_contests(jobs, random.Random(1))
    assert [job.key for job in mixed] == [job.key for job in jobs]
    assert sum(job.behaviour == "is_killed" for job in mixed) == c19_everything.POISON_JOBS
    assert sum(job.type == c19_everything.SILENT_TYPE for job in mixed) > 0
