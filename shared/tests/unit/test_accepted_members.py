"""The answer to a submission is the JSON of a `JobView`, made without one."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from taskflow.jobs.new_job import FilledIn, NewJob, Submission, SubmissionKind
from taskflow.jobs.schemas import JobView
from taskflow.jobs.states import JobState, Priority
from taskflow.jobs.views import accepted_members

TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SECONDS = st.none() | st.floats(0.001, 1e6)
TEXTS = st.none() | st.text(max_size=5)
JSON = st.dictionaries(
    st.text(max_size=3),
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    max_size=3,
)
JOBS = st.builds(
    NewJob,
    id=st.uuids(),
    tenant_id=st.just(uuid4()),
    type=st.sampled_from(["echo", "thumbnail"]),
    queue=st.just("default"),
    priority=st.sampled_from(Priority),
    payload=JSON,
    max_attempts=st.integers(1, 9),
    name=TEXTS,
    description=TEXTS,
    tags=st.lists(st.text(max_size=3), max_size=2),
    metadata=st.none() | JSON,
    unique_key=TEXTS,
    depends_on=st.lists(st.uuids(), max_size=2),
    run_at=st.none() | TIMES,
    delay_seconds=SECONDS,
    expires_at=st.none() | TIMES,
    ttl_seconds=SECONDS,
    timeout_seconds=SECONDS,
)
SUBMISSIONS = st.builds(
    Submission,
    kind=st.sampled_from(SubmissionKind),
    job_id=st.uuids(),
    state=st.sampled_from(JobState),
    created_at=TIMES,
    run_at=st.none() | TIMES,
    expires_at=st.none() | TIMES,
    filled_in=st.none() | st.builds(FilledIn, st.just("other"), st.integers(1, 9), SECONDS),
)


@given(JOBS, SUBMISSIONS)
def test_it_is_what_the_model_would_write(job: NewJob, submission: Submission) -> None:
    content = to_json(accepted_members(job, submission, payload=job.payload))
    assert JobView.model_validate_json(content).model_dump_json().encode() == content


def test_what_the_commit_says_comes_before_what_was_asked() -> None:
    now = datetime(2026, 7, 1, 12, tzinfo=UTC)

    def members(*, filled_in: FilledIn | None = None, **times: datetime) -> JobView:
        job = NewJob(
            id=uuid4(), tenant_id=uuid4(), type="echo", queue="default", priority=Priority.LOW,
            payload={"a": 1}, max_attempts=4, delay_seconds=5, ttl_seconds=60,
        )  # fmt: skip
        submission = Submission(
            SubmissionKind.REPLAYED, uuid4(), JobState.QUEUED, now, filled_in=filled_in, **times
        )
        return JobView(**accepted_members(job, submission, payload={"a": "hidden"}))

    asked = members()
    assert (asked.run_at, asked.expires_at) == (
        now + timedelta(seconds=5),
        now + timedelta(minutes=1),
    )
    assert (asked.queue, asked.max_attempts, asked.payload) == ("default", 4, {"a": "hidden"})
    said = members(run_at=now, expires_at=now + timedelta(hours=1))
    assert (said.run_at, said.expires_at) == (now, now + timedelta(hours=1))
    of_then = members(filled_in=FilledIn("then", 7, 1.5))
    assert (of_then.queue, of_then.max_attempts, of_then.timeout_seconds) == ("then", 7, 1.5)
