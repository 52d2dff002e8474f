import pytest

from taskflow.jobs.backoff import Backoff
from taskflow.jobs.outcomes import (
    MAX_ERROR_MESSAGE_CHARACTERS,
    JobError,
    Outcome,
    OutcomeKind,
    failed,
)

ERROR = JobError("Boom", "it broke", retryable=True)


def decide(error: JobError = ERROR, *, left: int = 3, delay: float | None = None) -> Outcome:
    return failed(
        error,
        failures=2,
        attempts_left=left,
        backoff=Backoff(jitter=0),
        random_unit=0.5,
        delay_seconds=delay,
    )


def test_a_retryable_failure_waits_for_its_backoff() -> None:
    outcome = decide()
    assert (outcome.kind, outcome.delay_seconds) == (OutcomeKind.RETRYABLE, 2)


@pytest.mark.parametrize("delay", [0, 30, 10_000])
def test_a_handler_may_name_its_own_delay(delay: float) -> None:
    assert decide(delay=delay).delay_seconds == delay


def test_without_attempts_it_is_final() -> None:
    outcome = decide(left=0)
    assert (outcome.kind, outcome.error) == (OutcomeKind.FAILED, ERROR)


def test_a_permanent_error_is_final() -> None:
    assert decide(JobError("Fail", "never", retryable=False)).kind is OutcomeKind.FAILED


def test_a_long_message_is_cut() -> None:
    outcome = decide(JobError("Boom", "x" * 10_000, retryable=True))
    assert outcome.error is not None
    assert len(outcome.error.message) == MAX_ERROR_MESSAGE_CHARACTERS
