"""The built-in jobs, and that they run under uvloop as they do under asyncio."""

import asyncio
import json
import os
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from taskflow.jobs.outcomes import Outcome, OutcomeKind
from taskflow.sdk.registry import Registry

from .harness import Harness

MODULES = ["taskflow_consumer.handlers.trial"]


async def _run(harness: Harness, type_: str, payload: object, number: int = 1) -> Outcome:
    executor = harness.executor(Registry.from_modules(MODULES))
    return await harness.run(executor, harness.claim(type_, payload, number=number))


def test_their_names_are_those_of_the_contract() -> None:
    assert Registry.from_modules(MODULES).names == ("echo", "flaky", "sleep")


async def test_echo_returns_its_text_and_logs_a_line(harness: Harness) -> None:
    executor = harness.executor(Registry.from_modules(MODULES))
    claimed = harness.claim("echo", {"text": "hällo 🎈"})
    outcome = await harness.run(executor, claimed)
    assert outcome.result_json == '{"text":"hällo 🎈"}'
    (line,) = harness.lines(claimed)
    assert line.fields == {"text": "hällo 🎈"}


async def test_sleep_sleeps_and_says_how_far_it_is(harness: Harness) -> None:
    outcome = await _run(harness, "sleep", {"seconds": 0.7})
    assert json.loads(outcome.result_json or "") == {"slept_seconds": 0.7}
    # What writes progress serves all jobs: its own words must not land in one job's log.
    assert set(harness.progress.logs_of_jobs) == {None}
    percents = [percent for percent, _ in harness.progress.reports]
    assert percents == sorted(percents)
    assert len(percents) >= 2
    assert percents[-1] == 100


async def test_sleep_for_no_time_at_all(harness: Harness) -> None:
    assert (await _run(harness, "sleep", {"seconds": 0})).kind is OutcomeKind.COMPLETED


@pytest.mark.parametrize("seconds", [-1, 86_401, "x", None])
async def test_sleep_takes_no_odd_length(harness: Harness, seconds: object) -> None:
    outcome = await _run(harness, "sleep", {"seconds": seconds})
    assert outcome.error is not None
    assert outcome.error.type == "invalid_payload"


async def test_flaky_fails_as_often_as_it_is_told_and_then_works(harness: Harness) -> None:
    first = await _run(harness, "flaky", {"fail_times": 2})
    assert first.kind is OutcomeKind.RETRYABLE
    second = await _run(harness, "flaky", {"fail_times": 2}, number=2)
    assert second.kind is OutcomeKind.RETRYABLE
    third = await _run(harness, "flaky", {"fail_times": 2}, number=3)
    assert third.result_json == '{"attempts":3}'
    by_default = await _run(harness, "flaky", {})
    assert by_default.kind is OutcomeKind.RETRYABLE


async def test_flaky_writes_no_number_of_any_length_down(harness: Harness) -> None:
    outcome = await _run(harness, "flaky", {"fail_times": 10**4000})
    assert outcome.error is not None
    assert outcome.error.type == "invalid_payload"
    assert len(outcome.error.message) < 500


async def test_flaky_can_fail_for_good(harness: Harness) -> None:
    outcome = await _run(harness, "flaky", {"permanent": True})
    assert outcome.kind is OutcomeKind.FAILED


async def test_everything_runs_under_uvloop(isolated_jobs: Registry) -> None:
    async def story() -> dict[str, Any]:
        harness = Harness()
        echo = await _run(harness, "echo", {"text": "x"})
        executor = harness.executor(isolated_jobs)
        added = await harness.run(executor, harness.claim("isolated.sum", {"numbers": [2, 3]}))
        sleeping = harness.claim("isolated.sleep", {"seconds": 300}, timeout_seconds=0.5)
        timed_out = await harness.run(executor, sleeping)
        died = await harness.run(executor, harness.claim("isolated.die", {"how": "kill"}))
        for each in harness.executors:
            await each.drain(0)
        return {"echo": echo, "added": added, "timed_out": timed_out, "died": died}

    def in_uvloop(main: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        return uvloop.run(main)

    outcomes = await asyncio.to_thread(in_uvloop, story())
    assert outcomes["echo"].result_json == '{"text":"x"}'
    assert json.loads(outcomes["added"].result_json)["sum"] == 5
    assert json.loads(outcomes["added"].result_json)["pid"] != os.getpid()
    assert outcomes["timed_out"].error.type == "timeout"
    assert outcomes["died"].error.type == "worker_process_died"
