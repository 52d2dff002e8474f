"""The arithmetic of quotas, without a server."""

from hypothesis import given
from hypothesis import strategies as st

from taskflow.errors import QuotaExceeded
from taskflow.jobs.quotas import JOB_BYTES, NEAR_JOBS, Quotas, Usage, judge, moved
from taskflow.jobs.states import LIVE, TRANSITIONS, WAITING, JobState

STEPS = [
    (source, target)
    for transition in TRANSITIONS.values()
    for source in transition.sources or {None}
    for target in transition.targets
]
SIZES = st.integers(0, 300)
JOBS, BYTES = st.integers(0, 1000), st.integers(0, 50_000)
USAGES = st.builds(Usage, JOBS, BYTES, JOBS)
QUOTAS = st.builds(Quotas, JOBS, BYTES)


@given(st.data())
def test_the_steps_of_a_life_add_up_to_where_it_stands(data: st.DataObject) -> None:
    """Whichever way a job takes, what is counted for it is what it is now."""
    total, state = Usage(), None
    for _ in range(data.draw(st.integers(1, 20))):
        _, target = data.draw(st.sampled_from([step for step in STEPS if step[0] == state]))
        total += moved(state, target)
        state = target
        waits, runs = state in WAITING, state is JobState.RUNNING
        assert total == Usage(waiting_jobs=int(waits), running_jobs=int(runs))
        assert bool(total) == (state in LIVE)
        if not any(step[0] == state for step in STEPS):
            break


@given(QUOTAS, USAGES, st.lists(SIZES, max_size=30))
def test_what_is_let_in_is_never_beyond_a_quota(
    quotas: Quotas, usage: Usage, sizes: list[int]
) -> None:
    for size, refusal in zip(sizes, judge(quotas, usage, sizes), strict=True):
        if refusal is None:
            usage += Usage(1, JOB_BYTES + size)
            assert usage.waiting_jobs <= (quotas.waiting_jobs or usage.waiting_jobs)
            assert usage.kept_bytes <= (quotas.kept_bytes or usage.kept_bytes)
        else:
            _names_what_is_full(refusal, quotas, usage, size)


def _names_what_is_full(refusal: QuotaExceeded, quotas: Quotas, usage: Usage, size: int) -> None:
    """Nobody is refused who has room."""
    assert refusal.limit == getattr(quotas, refusal.quota) > 0
    assert refusal.use == getattr(usage, refusal.quota)
    wanted = {"waiting_jobs": 1, "kept_bytes": JOB_BYTES + size}[refusal.quota]
    assert refusal.use + wanted > refusal.limit


@given(st.integers(1, 100_000), st.integers(0, 200_000))
def test_who_is_not_near_has_room_for_what_is_on_its_way(limit: int, waiting: int) -> None:
    quotas, usage = Quotas(waiting_jobs=limit), Usage(waiting_jobs=waiting)
    if not quotas.is_near(usage):
        assert quotas.refusal(usage, 0, jobs=max(NEAR_JOBS, limit // 10)) is None


@given(USAGES, st.lists(SIZES, max_size=5))
def test_without_quotas_there_is_room_for_all(usage: Usage, sizes: list[int]) -> None:
    assert judge(Quotas(), usage, sizes) == [None] * len(sizes)
