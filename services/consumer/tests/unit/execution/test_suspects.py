"""Jobs that have lost a worker: they run apart, and are judged by what becomes of that process."""

import asyncio
import json
import os
import signal
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from taskflow import job
from taskflow.jobs.outcomes import Outcome, OutcomeKind
from taskflow.sdk.registry import Registry
from taskflow_consumer import executor as executor_module

from .harness import Harness, until


@pytest.fixture
def suspects(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Jobs without isolation, of a module that another process can import."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "importable")
    return Registry.from_modules(["suspect_sample_jobs"])


def _result(outcome: Outcome) -> dict[str, object]:
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    result: dict[str, object] = json.loads(outcome.result_json or "")
    return result


@pytest.mark.parametrize("name", ["suspect.async", "suspect.def"])
async def test_only_a_job_that_has_lost_a_worker_runs_apart(
    harness: Harness, suspects: Registry, name: str
) -> None:
    executor = harness.executor(suspects)
    first = _result(await harness.run(executor, harness.claim(name)))
    assert first["pid"] == os.getpid()
    again = _result(await harness.run(executor, harness.claim(name, number=2, losses=1)))
    assert again["pid"] != os.getpid()


async def test_a_suspect_whose_process_dies_is_what_kills_and_its_losses_count(
    harness: Harness, suspects: Registry
) -> None:
    executor = harness.executor(suspects)
    job = harness.claim("suspect.kills", number=2, max_attempts=4, losses=1)
    outcome = await harness.run(executor, job)
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.type) == (OutcomeKind.RETRYABLE, "worker_lost")
    assert "exit code 9" in outcome.error.message
    assert "worker_lost: The job's process ended by itself" in harness.text(job)

    last = await harness.run(
        executor, harness.claim("suspect.kills", number=4, max_attempts=4, losses=1)
    )
    assert last.error is not None
    # The loss and three deaths are the four that it may have.
    assert (last.kind, last.error.type) == (OutcomeKind.FAILED, "worker_lost")


async def test_the_death_of_the_fork_server_is_no_suspects_fault(
    harness: Harness, suspects: Registry
) -> None:
    executor = harness.executor(suspects)
    job = harness.claim("suspect.waits", number=4, max_attempts=4, losses=3)
    executor.start(job)
    await until(lambda: "waiting" in harness.text(job))
    server: Any = forkserver._forkserver
    os.kill(int(server._forkserver_pid), signal.SIGKILL)
    outcome = await harness.outcome(job)
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.type) == (OutcomeKind.RETRYABLE, "worker_process_died")


async def test_what_a_suspect_raises_is_judged_as_ever_and_its_losses_are_forgiven(
    harness: Harness, suspects: Registry
) -> None:
    executor = harness.executor(suspects)
    outcome = await harness.run(
        executor, harness.claim("suspect.raises", number=4, max_attempts=4, losses=1)
    )
    assert outcome.error is not None
    assert (outcome.kind, outcome.error.type) == (OutcomeKind.RETRYABLE, "ValueError")


async def test_a_job_that_no_other_process_can_find_runs_here_all_the_same(
    harness: Harness,
) -> None:
    @job("local")
    async def local() -> dict[str, int]:
        return {"pid": os.getpid()}

    executor = harness.executor([local])
    outcome = await harness.run(executor, harness.claim("local", number=2, losses=1))
    assert _result(outcome)["pid"] == os.getpid()


async def test_so_many_suspects_take_a_process_and_no_more(
    harness: Harness, suspects: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "SUSPECTS_ISOLATED", 1)
    executor = harness.executor(suspects)
    jobs = [harness.claim("suspect.async", number=2, losses=1) for _ in range(3)]
    for each in jobs:
        executor.start(each)
    outcomes = await asyncio.gather(*(harness.outcome(each) for each in jobs))
    here = [_result(outcome)["pid"] == os.getpid() for outcome in outcomes]
    assert sorted(here) == [False, True, True]
    await until(lambda: not executor.in_hand)


async def test_a_suspect_that_is_over_leaves_its_process_to_the_next(
    harness: Harness, suspects: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "SUSPECTS_ISOLATED", 1)
    harness.recorder.gate.clear()
    executor = harness.executor(suspects)
    jobs = [harness.claim("suspect.async", number=2, losses=1) for _ in range(2)]
    try:
        for each in jobs:
            executor.start(each)
            await until(lambda: harness.events().count("job_completed") == executor.started)
        assert executor.in_hand == 2
    finally:
        harness.recorder.gate.set()
    for each in jobs:
        assert _result(await harness.outcome(each))["pid"] != os.getpid()
