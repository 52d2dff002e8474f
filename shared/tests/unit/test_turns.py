"""Whose turn it is, without a server."""

from collections import Counter
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.turns import Candidate, Plan, Standing, plan, spared

LANE, OTHER_LANE = Lane("default", Priority.MEDIUM), Lane("default", Priority.HIGH)
NOISY, QUIET, THIRD = (UUID(int=number) for number in (1, 2, 3))


def jobs(tenant_id: UUID, count: int, *, has_pointer: bool, lane: Lane = LANE) -> list[Candidate]:
    return [Candidate(uuid4(), tenant_id, lane, has_pointer) for _ in range(count)]


def decide(
    candidates: list[Candidate], standings: dict[UUID, Standing], slots: int | None = None
) -> Plan:
    in_hand = sum(each.has_pointer for each in candidates)
    return plan(
        candidates, standings, slots=in_hand if slots is None else slots, chance=lambda: 0.5
    )


def test_alone_a_tenant_runs_what_is_in_hand() -> None:
    noisy = jobs(NOISY, 3, has_pointer=True)
    decided = decide(noisy, {NOISY: Standing(100)})
    assert decided == Plan(tuple(each.job_id for each in noisy), (), ())


def test_who_has_the_fewest_running_comes_first() -> None:
    noisy, quiet = jobs(NOISY, 1, has_pointer=True), jobs(QUIET, 5, has_pointer=False)
    decided = decide(noisy + quiet, {NOISY: Standing(1), QUIET: Standing(0)})
    assert decided == Plan((quiet[0].job_id,), (noisy[0].job_id,), ())


def test_slots_are_shared() -> None:
    noisy, quiet = jobs(NOISY, 10, has_pointer=True), jobs(QUIET, 10, has_pointer=False)
    third = jobs(THIRD, 1, has_pointer=False)
    standings = {NOISY: Standing(0), QUIET: Standing(0), THIRD: Standing(0)}
    decided = decide(noisy + quiet + third, standings)
    owner = {each.job_id: each.tenant_id for each in noisy + quiet + third}
    counts = Counter(owner[job_id] for job_id in decided.start)
    assert counts[THIRD] == 1
    assert {counts[NOISY], counts[QUIET]} == {4, 5}


def test_what_is_beyond_a_quota_is_held() -> None:
    noisy = jobs(NOISY, 4, has_pointer=True)
    decided = decide(noisy, {NOISY: Standing(running=3, most=5)})
    assert decided.start == tuple(each.job_id for each in noisy[:2])
    assert decided.hold == tuple(each.job_id for each in noisy[2:])


def test_what_has_waited_longer_comes_before_what_is_in_hand() -> None:
    held, fresh = jobs(NOISY, 3, has_pointer=False), jobs(NOISY, 1, has_pointer=True)
    decided = decide(held + fresh, {NOISY: Standing(running=0, most=5)})
    assert decided == Plan((held[0].job_id,), (), (fresh[0].job_id,))


def test_a_slot_stays_in_the_lane_of_its_pointer() -> None:
    noisy = jobs(NOISY, 1, has_pointer=True)
    elsewhere = jobs(QUIET, 1, has_pointer=False, lane=OTHER_LANE)
    decided = decide(noisy + elsewhere, {NOISY: Standing(9), QUIET: Standing(0)})
    assert decided.start == (noisy[0].job_id,)


@pytest.mark.parametrize(
    ("missed", "surplus", "free", "more"),
    [
        (0, 2, 9, 1),
        (0, 0, 9, 3),
        (0, -5, 9, 3),
        (0, 5, 9, 0),
        (2, 2, 9, 3),
        (1, 2, 9, 2),
        (0, 0, 1, 1),
        (0, 0, 0, 0),
    ],
)
def test_of_three_that_are_to_give_way_some_start_after_all(
    missed: int, surplus: int, free: int, more: int
) -> None:
    assert spared(3, missed=missed, surplus=surplus, free=free) == more


TENANTS = st.sampled_from([NOISY, QUIET, THIRD])
CANDIDATES = st.lists(
    st.builds(Candidate, st.uuids(), TENANTS, st.sampled_from([LANE, OTHER_LANE]), st.booleans()),
    max_size=30,
    unique_by=lambda each: each.job_id,
)
STANDINGS = st.fixed_dictionaries(
    {
        tenant: st.builds(Standing, st.integers(0, 5), st.integers(0, 6))
        for tenant in (NOISY, QUIET, THIRD)
    }
)


@given(CANDIDATES, STANDINGS, st.integers(-1, 30))
def test_a_plan_keeps_what_it_promises(
    candidates: list[Candidate], standings: dict[UUID, Standing], slots: int
) -> None:
    decided = decide(candidates, standings, slots)

    by_id = {each.job_id: each for each in candidates}
    in_hand = {each.job_id for each in candidates if each.has_pointer}
    set_aside = [*decided.give_way, *decided.hold]
    # Each pointer leads to one thing, and no slot is given twice.
    assert len({*decided.start, *set_aside}) == len(decided.start) + len(set_aside)
    assert in_hand - set(decided.start) == set(set_aside)
    assert len(decided.start) <= max(slots, 0)
    for lane in (LANE, OTHER_LANE):
        started = [job_id for job_id in decided.start if by_id[job_id].lane == lane]
        assert len(started) <= sum(by_id[job_id].lane == lane for job_id in in_hand)
    started_by = Counter(by_id[job_id].tenant_id for job_id in decided.start)
    for tenant, standing in standings.items():
        if standing.most:
            assert started_by[tenant] <= max(standing.most - standing.running, 0)
            assert all(by_id[job_id].tenant_id != tenant for job_id in decided.give_way)
        else:
            assert all(by_id[job_id].tenant_id != tenant for job_id in decided.hold)


@given(
    owners=st.lists(TENANTS, min_size=20, max_size=20),
    elsewhere=st.lists(TENANTS, max_size=3),
    slots=st.integers(2, 14),
    too_many=st.integers(-1, 6),
)
def test_nobody_gives_way_for_a_slot_that_stays_empty(
    owners: list[UUID], elsewhere: list[UUID], slots: int, too_many: int
) -> None:
    """Pointers in hand are claimed by halves; jobs in their place may have theirs among them."""
    waiting = [
        Candidate(uuid4(), owner, LANE, has_pointer=True) for owner in owners[: slots + too_many]
    ]
    others = [Candidate(uuid4(), owner, LANE, has_pointer=False) for owner in elsewhere]
    running: Counter[UUID] = Counter()
    started: set[UUID] = set()
    gave_way, free = 0, slots
    while waiting and free:
        size = min(free, (slots + 1) // 2)
        own, waiting = waiting[:size], waiting[size:]
        present = {each.tenant_id for each in own}
        rivals = [
            replace(each, has_pointer=False)
            for each in [*waiting, *others]
            if each.tenant_id not in present and each.job_id not in started
        ]
        standings = {tenant_id: Standing(running[tenant_id]) for tenant_id in (NOISY, QUIET, THIRD)}
        decided = decide([*own, *rivals], standings)
        more = spared(
            len(decided.give_way),
            missed=0,
            surplus=len(own) + len(waiting) - free,
            free=free - len(decided.start),
        )
        started |= {*decided.start, *decided.give_way[:more]}
        running.update(each.tenant_id for each in [*own, *rivals] if each.job_id in started)
        gave_way += len(decided.give_way[more:])
        free -= len(decided.start) + more
        waiting = [each for each in waiting if each.job_id not in started]
    assert free == 0 or gave_way == 0
