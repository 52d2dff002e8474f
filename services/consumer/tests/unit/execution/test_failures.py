"""What handlers raise, and what comes of it: the same in the loop and in a thread."""

import asyncio
import sys
import threading
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from taskflow import Backoff, Fail, Retry, job
from taskflow.jobs.outcomes import OutcomeKind

from .harness import Declare, Harness, as_def, outcome_of


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _raise(error: BaseException) -> Any:
    raise error.with_traceback(None)


@pytest.mark.parametrize(
    ("error", "error_type", "message"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (ValueError(), "ValueError", "ValueError"),
        (KeyError("k"), "KeyError", "'k'"),
        (TimeoutError("own"), "TimeoutError", "own"),
        (asyncio.CancelledError(), "CancelledError", "The handler raised CancelledError"),
        (SystemExit(3), "SystemExit", "The handler raised SystemExit: 3"),
        (SystemExit(), "SystemExit", "The handler raised SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "The handler raised KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit", "The handler raised GeneratorExit"),
        (BaseException("base"), "BaseException", "The handler raised BaseException: base"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (RecursionError("deep"), "RecursionError", "deep"),
        (ValueError("nul \x00, half \udc80"), "ValueError", "nul \ufffd, half \ufffd"),
        (ValueError("x" * 10_000), "ValueError", "x" * 4_000),
        (Mute(), "Mute", "Mute (its message can't be read: RuntimeError)"),
        (
            ExceptionGroup("many", [ValueError("one")]),
            "ExceptionGroup",
            "many (1 sub-exception)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_a_handler_raises_is_a_retryable_failure(
    harness: Harness, declare: Declare, error: BaseException, error_type: str, message: str
) -> None:
    outcome, log = await outcome_of(harness, declare(lambda: _raise(error)))
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.as_dict() == {"type": error_type, "message": message, "retryable": True}
    # The traceback is for the job's log, and begins where the handler does.
    assert "Traceback (most recent call last)" in log
    assert "test_failures.py" in log
    assert "isolation/call.py" not in log
    # The consumer lives on.
    after, _ = await outcome_of(harness, declare(lambda: "fine"))
    assert after.kind is OutcomeKind.COMPLETED


async def test_stop_iteration_of_a_def_handler_is_a_failure_like_any(harness: Harness) -> None:
    outcome, _ = await outcome_of(harness, as_def(lambda: next(iter([]))))
    assert outcome.error is not None
    assert outcome.error.type == "StopIteration"


async def test_a_retry_waits_as_long_as_it_says(harness: Harness, declare: Declare) -> None:
    outcome, log = await outcome_of(harness, declare(lambda: _raise(Retry("busy", 12.5))))
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.delay_seconds == 12.5
    assert outcome.error is not None
    assert outcome.error.as_dict() == {"type": "Retry", "message": "busy", "retryable": True}
    assert "Traceback" not in log
    assert "busy" in log


class UpstreamBusy(Retry):
    def __init__(self) -> None:
        Exception.__init__(self, "upstream")


@pytest.mark.parametrize("delay", [None, float("nan"), -1.0, 1e300, "soon"])
async def test_a_retry_of_a_users_own_kind_falls_back_on_the_backoff(
    harness: Harness, declare: Declare, delay: object
) -> None:
    error = UpstreamBusy()
    if delay is not None:
        error.delay_seconds = delay  # type: ignore[assignment]
    outcome, _ = await outcome_of(harness, declare(lambda: _raise(error)))
    assert outcome.error is not None
    assert outcome.error.type == "UpstreamBusy"
    assert 0.75 <= outcome.delay_seconds <= 1.25


async def test_a_fail_is_final(harness: Harness, declare: Declare) -> None:
    outcome, _ = await outcome_of(harness, declare(lambda: _raise(Fail("never"))))
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert outcome.error.as_dict() == {"type": "Fail", "message": "never", "retryable": False}


async def test_a_deliberate_failure_with_a_cause_shows_it(
    harness: Harness, declare: Declare
) -> None:
    def body() -> None:
        try:
            _raise(OSError("the real reason"))
        except OSError as error:
            raise Fail("never") from error

    _, log = await outcome_of(harness, declare(body))
    assert "the real reason" in log


@pytest.mark.parametrize(
    ("number", "kind", "delay"),
    [
        (1, OutcomeKind.RETRYABLE, 10),
        (2, OutcomeKind.RETRYABLE, 30),
        (3, OutcomeKind.RETRYABLE, 40),
        (4, OutcomeKind.FAILED, 0),
    ],
)
async def test_each_job_type_has_its_own_backoff_and_each_job_its_budget(
    harness: Harness, number: int, kind: OutcomeKind, delay: float
) -> None:
    @job("subject", backoff=Backoff(base_seconds=10, factor=3, cap_seconds=40, jitter=0))
    async def subject() -> None:
        raise ValueError

    executor = harness.executor([subject])
    outcome = await harness.run(executor, harness.claim("subject", number=number))
    assert (outcome.kind, outcome.delay_seconds) == (kind, delay)


async def test_the_jitter_comes_from_the_given_random(harness: Harness) -> None:
    @job("subject")
    async def subject() -> None:
        raise ValueError

    delays = []
    for _ in range(2):
        executor = harness.executor([subject])
        outcome = await harness.run(executor, harness.claim("subject"))
        delays.append(outcome.delay_seconds)
    assert delays[0] == delays[1] != 1.0


class Picture(BaseModel):
    name: str
    width: int = Field(gt=0)
    tags: list[str] = []

    @field_validator("name")
    @classmethod
    def _breaks(cls, name: str) -> str:
        if name == "break":
            raise LookupError("in a validator")
        return name


@pytest.mark.parametrize("flavour", ["async", "def"])
@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, ["/name: Field required", "/width: Field required"]),
        ({"name": "a", "width": 0}, ["/width: Input should be greater than 0"]),
        ({"name": "a", "width": 1, "tags": ["x", 5]}, ["/tags/1: Input should be a valid string"]),
        ([], ["Input should be"]),
        ({"name": "secret" * 10, "width": "secret"}, ["/width: Input should be a valid integer"]),
    ],
)
async def test_a_payload_that_does_not_fit_is_a_permanent_failure(
    harness: Harness, flavour: str, payload: object, said: list[str]
) -> None:
    called = []

    @job("async")
    async def as_async(payload: Picture) -> None:
        called.append(payload)

    @job("def")
    def as_def(payload: Picture) -> None:
        called.append(payload)

    executor = harness.executor([as_async, as_def])
    claimed = harness.claim(flavour, payload)
    outcome = await harness.run(executor, claimed)
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "invalid_payload"
    for part in said:
        assert part in outcome.error.message
    assert "secret" not in outcome.error.message
    assert outcome.error.message in harness.text(claimed)
    assert called == []


async def test_a_validator_that_breaks_is_a_failure_like_any(harness: Harness) -> None:
    @job("subject")
    async def subject(payload: Picture) -> None:
        raise AssertionError("never called")

    executor = harness.executor([subject])
    outcome = await harness.run(executor, harness.claim("subject", {"name": "break", "width": 1}))
    assert outcome.error is not None
    assert outcome.error.as_dict() == {
        "type": "LookupError",
        "message": "in a validator",
        "retryable": True,
    }


async def test_a_coroutine_in_disguise_is_found_out(harness: Harness) -> None:
    async def real() -> str:
        return "never"

    outcome, _ = await outcome_of(harness, as_def(real))
    assert outcome.error is not None
    assert outcome.error.type == "result_not_json"
    assert "coroutine" in outcome.error.message


async def test_a_user_may_exit_by_any_name(harness: Harness, declare: Declare) -> None:
    outcome, _ = await outcome_of(harness, declare(lambda: sys.exit("some words")))
    assert outcome.error is not None
    assert outcome.error.message == "The handler raised SystemExit: some words"


async def test_a_very_long_traceback_keeps_its_ends(harness: Harness, declare: Declare) -> None:
    text = "begin" + "x" * 100_000 + "end"
    _, log = await outcome_of(harness, declare(lambda: _raise(ValueError(text))))
    assert "Traceback" in log
    assert "[...]" in log
    assert "xend" in log
    assert len(log) < 50_000


class Unshowable(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise LookupError("no list")


async def test_a_traceback_that_can_not_be_shown_costs_nothing_else(
    harness: Harness, declare: Declare
) -> None:
    error = Unshowable("group", [ValueError()])
    outcome, log = await outcome_of(harness, declare(lambda: _raise(error)))
    assert outcome.error is not None
    assert outcome.error.type == "Unshowable"
    assert "(the traceback can't be shown: no list)" in log


async def test_a_thread_that_can_not_be_started_is_a_retryable_failure(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        outcome, _ = await outcome_of(harness, as_def(lambda: None))
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.type == "worker_thread_not_started"
