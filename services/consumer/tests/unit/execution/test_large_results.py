"""Results that are too large for their rows."""

import json
import time

import pytest

from taskflow import job
from taskflow.jobs.outcomes import OutcomeKind
from taskflow_consumer.middleware.stop import StopReason

from .harness import Harness, until


@job("large")
async def large(payload: dict[str, int]) -> str:
    """Return a text that takes so many bytes as JSON."""
    return "x" * (payload["bytes"] - 2)


async def test_a_result_up_to_the_limit_stays_in_its_row(harness: Harness) -> None:
    executor = harness.executor([large], result_inline_bytes=1000)
    outcome = await harness.run(executor, harness.claim("large", {"bytes": 1000}))
    assert outcome.result_object is None
    assert len(outcome.result_json or "") == 1000
    assert harness.artifacts.objects == {}


async def test_a_larger_one_becomes_an_object_named_by_its_attempt(harness: Harness) -> None:
    executor = harness.executor([large], result_inline_bytes=1000)
    claimed = harness.claim("large", {"bytes": 1001}, number=3)
    outcome = await harness.run(executor, claimed)
    assert outcome.kind is OutcomeKind.COMPLETED
    assert outcome.result_json is None
    assert outcome.result_object is not None
    assert outcome.result_object.endswith(f"/{claimed.attempt.job_id}/result-3.json")
    data, content_type = harness.artifacts.objects[outcome.result_object]
    assert len(json.loads(data)) == 999
    assert content_type == "application/json"


async def test_a_store_that_is_away_for_a_moment_costs_no_attempt(harness: Harness) -> None:
    harness.artifacts.outages = 3
    executor = harness.executor([large], result_inline_bytes=10)
    claimed = harness.claim("large", {"bytes": 100}, timeout_seconds=0.2)
    outcome = await harness.run(executor, claimed)
    assert outcome.kind is OutcomeKind.COMPLETED
    assert harness.text(claimed).count("can't be stored yet") == 3


async def test_a_store_that_stays_away_is_a_retryable_failure(harness: Harness) -> None:
    harness.artifacts.outages = 1_000_000
    executor = harness.executor([large], result_inline_bytes=10, result_patience_seconds=0.4)
    started = time.monotonic()
    outcome = await harness.run(executor, harness.claim("large", {"bytes": 100}))
    assert time.monotonic() - started < 3
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.type == "result_store_unavailable"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (StopReason.SHUTDOWN, OutcomeKind.RELEASED),
        (StopReason.CANCEL_REQUESTED, OutcomeKind.CANCELLED),
    ],
)
async def test_a_stop_ends_the_patience(
    harness: Harness, reason: StopReason, kind: OutcomeKind
) -> None:
    harness.artifacts.outages = 1_000_000
    executor = harness.executor([large], result_inline_bytes=10)
    claimed = harness.claim("large", {"bytes": 100})
    executor.start(claimed)
    await until(lambda: "can't be stored yet" in harness.text(claimed))
    executor.cancel(claimed.attempt.job_id, 1, reason)
    assert (await harness.outcome(claimed, timeout=5)).kind is kind
