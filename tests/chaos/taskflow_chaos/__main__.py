"""`python -m taskflow_chaos [C1 C3 ...]` in a checkout: what `make chaos` calls."""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
from pathlib import Path

from taskflow_chaos import runner, scorecard
from taskflow_chaos.result import Result
from taskflow_chaos.scenario import (
    GATE,
    GATE_JOBS,
    Scenario,
    UnknownScenario,
    chosen_scenarios,
)
from taskflow_chaos.service_logs import ServiceLogs
from taskflow_local.system_packages import ensure_installed

_INTERRUPTED = 130
_LOG_LINES_SHOWN = 25


def main(arguments: list[str]) -> int:
    """Run the scenarios one after the other; 0 if all of them passed."""
    options = _parser().parse_args(arguments)
    try:
        chosen = chosen_scenarios(options.scenario or (GATE if options.gate else ()))
    except UnknownScenario as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ensure_installed()
    try:
        return asyncio.run(_run_all(chosen, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m taskflow_chaos", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="C1, C3 and so on; all of them without")
    parser.add_argument("--gate", action="store_true", help=f"{' '.join(GATE)}, {GATE_JOBS} jobs")
    parser.add_argument("--jobs", type=int, help="how many jobs; else as many as a scenario has")
    parser.add_argument("--seed", type=int, help="else one that chance gives")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what passed, too")
    return parser


async def _run_all(chosen: list[Scenario], options: argparse.Namespace) -> int:
    _cancel_on_signals()
    checkout = Path.cwd().resolve()
    results = [await _run_one(scenario, options, checkout) for scenario in chosen]
    _say("\n" + scorecard.render({each.scenario: scorecard.row(each) for each in results}))
    return 0 if all(result.passed for result in results) else 1


async def _run_one(scenario: Scenario, options: argparse.Namespace, checkout: Path) -> Result:
    jobs = options.jobs or (GATE_JOBS if options.gate else scenario.jobs)
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    _say(f"{scenario.id} {scenario.title}: {scenario.fault}; {jobs} jobs, seed {seed}")
    result, folder = await runner.run(scenario, jobs=jobs, seed=seed, checkout=checkout, tell=_say)
    _tell(result, folder)
    result.write(checkout / ".taskflow" / "chaos")
    if not options.gate:
        _keep_score(checkout, result)
    if result.passed and not options.keep:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return result


def _cancel_on_signals() -> None:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: everything is stopped first."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _keep_score(checkout: Path, result: Result) -> None:
    if result.skipped:
        return
    if result.jobs < result.full_jobs:
        _say(f"not in the scorecard: {result.jobs} jobs are fewer than {result.full_jobs}")
        return
    scorecard.update_file(checkout / "docs" / "chaos-scorecard.md", result)


def _tell(result: Result, folder: Path) -> None:
    shown = result.model_dump(exclude={"failures", "fault", "asserts", "title", "scenario"})
    for name, value in shown.items():
        _say(f"  {name:<23} {value}")
    if result.skipped:
        _say(f"{result.scenario} SKIPPED: {result.skipped}")
        return
    if result.passed:
        _say(f"{result.scenario} passed in {result.seconds:.0f} s")
        return
    _say(f"{result.scenario} FAILED after {result.seconds:.0f} s, seed {result.seed}:")
    for failure in result.failures:
        _say(f"  - {failure}")
    errors = ServiceLogs(sorted((folder / "log").glob("*-*.log"))).errors()
    if errors:
        _say(f"  the last of {len(errors)} lines that tell of errors in the services' logs:")
    for line in errors[-_LOG_LINES_SHOWN:]:
        _say(f"    {line[:400]}")
    _say(f"  all logs and data are in {folder}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
