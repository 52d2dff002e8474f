"""The arithmetic of quotas, without a server."""

from hypothesis import given
from hypothesis import strategies as st

from taskflow.errors import QuotaExceeded
from taskflow.jobs.quotas import (
    JOB_BYTES,
    NEAR_JOBS,
    STATE_COLUMNS,
    Quotas,
    Usage,
    jobs_by_state,
    judge,
)
from taskflow.jobs.states import WAITING, JobState

SIZES = st.integers(0, 300)
JOBS, BYTES = st.integers(0, 1000), st.integers(0, 50_000)
USAGES = st.builds(Usage, JOBS, BYTES, JOBS)
QUOTAS = st.builds(Quotas, JOBS, BYTES)


@given(st.fixed_dictionaries(dict.fromkeys(JobState, JOBS)))
def test_jobs_by_state_are_those_that_were_counted(jobs: dict[JobState, int]) -> None:
    sums = {column: jobs[state] for state, column in STATE_COLUMNS.items()}
    sums["waiting_jobs"] = sum(jobs[state] for state in WAITING)
    assert jobs_by_state(sums) == jobs


def test_what_an_older_version_did_not_count_is_never_less_than_none() -> None:
    sums = dict.fromkeys(STATE_COLUMNS.values(), 0) | {"waiting_jobs": 1}
    found = jobs_by_state(sums | {"failed_jobs": -1, "retrying_jobs": 2})
    assert found == dict.fromkeys(JobState, 0) | {JobState.RETRYING: 2}


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
