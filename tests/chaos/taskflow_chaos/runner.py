"""Running one scenario from its empty folder to its result."""

import asyncio
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from taskflow_chaos.client import Client
from taskflow_chaos.cluster import running_cluster
from taskflow_chaos.errors import CannotRun
from taskflow_chaos.result import Result, percentile
from taskflow_chaos.sampler import LEASES_ARE_FRESH, LeaseSampler
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.verification import complaint, verify
from taskflow_chaos.workload import plan
from taskflow_testing.reaper import reaped
from taskflow_testing.run_folders import new_run_folder
from taskflow_testing.versions import Versions, versions_of

_MILLISECONDS = 1_000


async def run(
    scenario: Scenario,
    *,
    jobs: int,
    seed: int,
    checkout: Path,
    tell: Callable[[str], None],
) -> tuple[Result, Path]:
    """Run it, and `tell` how far it is.

    The result, and the folder with all logs and data, which is the caller's to delete.
    A scenario that breaks has failed; what broke it is among the result's `failures`.
    """
    runs = checkout / ".taskflow" / "chaos" / "runs"
    folder = await asyncio.to_thread(new_run_folder, runs, scenario.id)
    began = time.monotonic()

    def say(text: str) -> None:
        tell(f"{scenario.id} {time.monotonic() - began:6.1f} s  {text}")

    run_at = datetime.now(UTC).isoformat(timespec="seconds")
    report = Result(
        scenario=scenario.id,
        title=scenario.title,
        fault=scenario.fault,
        asserts=scenario.asserts,
        run_at=run_at,
        seed=seed,
        jobs=jobs,
        full_jobs=scenario.jobs,
        failures=[],
        faults={},
        statuses={},
        states={},
        seconds=0,
    )
    try:
        async with reaped(folder):
            with scenario.surroundings(folder):
                report = await _run_on_cluster(scenario, report, folder, checkout, say)
    except CannotRun as error:
        report = report.model_copy(update={"skipped": str(error)})
    except Exception as error:  # noqa: BLE001 - said in the result, and the next one is to run
        failures = [*report.failures, _said("the suite", error, folder)]
        report = report.model_copy(update={"failures": failures})
    seconds = time.monotonic() - began
    return report.model_copy(update={"seconds": round(seconds, 1)}), folder


async def _run_on_cluster(
    scenario: Scenario,
    report: Result,
    folder: Path,
    checkout: Path,
    say: Callable[[str], None],
) -> Result:
    async with running_cluster(folder, scenario.layout, checkout) as cluster:
        say("servers and services run")
        versions = await versions_of(cluster.servers)
        async with Client(cluster.api_urls, cluster.api_key, report.seed) as client:
            jobs = plan(report.seed, report.jobs, scenario.mix)
            stage = Stage(cluster, client, jobs, report.seed, say=say)
            sampler = LeaseSampler(cluster.postgres)
            async with sampler.running():
                await _play(scenario, stage)
        stage.failures += await cluster.stop_services()
        say("services stopped")
        looked_at = await _verify(stage)
        broken = [complaint(each) for each in sampler.broken[:1]]
        stage.failures += [each for each in broken if each is not None]
        stage.failures += _few(client.complaints, "answers that no fault excuses")
        # A count of zero is a fault that was meant to be.
        stage.require(
            bool(stage.faults) and all(stage.faults.values()),
            f"not every fault was injected: {dict(stage.faults)}",
        )
        return _summed_up(report, stage, sampler, looked_at, versions)


async def _play(scenario: Scenario, stage: Stage) -> None:
    """Play it; what breaks or hangs it is a failure, after which the rest is looked at as well."""
    try:
        async with asyncio.timeout(scenario.limit_seconds):
            await scenario.play(stage)
    except Exception as error:  # noqa: BLE001 - said in the result
        stage.failures.append(_said("the scenario", error, stage.cluster.folder))


async def _verify(stage: Stage) -> list[str]:
    """Hold the invariants against it; the numbers of those that were looked at."""
    try:
        findings = await verify(stage.cluster, stage.client.accepted)
    except Exception as error:  # noqa: BLE001 - said in the result
        stage.failures.append(_said("the verification", error, stage.cluster.folder))
        return []
    broken = [complaint(each) for each in findings]
    stage.failures += [each for each in broken if each is not None]
    codes = {each.invariant.code for each in findings if not each.skipped}
    return sorted(codes, key=lambda code: int(code.removeprefix("I")))


def _said(what: str, error: Exception, folder: Path) -> str:
    """One line; the traceback goes to a file beside the logs."""
    path = folder / "log" / "traceback.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        traceback.print_exception(error, file=file)
    return f"{what} broke: {type(error).__name__}: {error} (see {path})"


def _summed_up(
    report: Result, stage: Stage, sampler: LeaseSampler, looked_at: list[str], versions: Versions
) -> Result:
    waits = [each.waited_seconds * _MILLISECONDS for each in stage.client.accepted]
    tries = [each.try_seconds * _MILLISECONDS for each in stage.client.accepted]
    logs = stage.cluster.logs
    services = stage.cluster.services()
    return report.model_copy(
        update={
            "failures": stage.failures,
            "faults": dict(stage.faults),
            "statuses": dict(stage.client.statuses),
            "states": stage.states,
            "submit_p50_ms": percentile(waits, 0.50),
            "submit_p99_ms": percentile(waits, 0.99),
            "request_p99_ms": percentile(tries, 0.99),
            "recovery_means": stage.recovery_means,
            "worst_recovery_seconds": max(stage.recoveries, default=None),
            "recoveries": len(stage.recoveries),
            "lost_attempts": len(logs.events("job_rescued")),
            "republished": logs.sum("lost_pointers_republished", "count"),
            "needless_republished": stage.needless_republished,
            "refused_outcomes": len(logs.events("job_outcome_refused")),
            "service_deaths": sum(
                life.exit_code not in {None, 0} for each in services for life in each.lives
            ),
            # What runs is looked at meanwhile; at the end there is nothing to see.
            "invariants": [
                each for each in looked_at if each != LEASES_ARE_FRESH or sampler.samples
            ],
            "lease_samples": sampler.samples,
            "figures": stage.figures,
            "versions": versions,
        }
    )


def _few(lines: list[str], what: str, shown: int = 5) -> list[str]:
    """The first of many lines, and how many there are."""
    return [] if not lines else [f"{len(lines)} {what}, such as:", *lines[:shown]]
