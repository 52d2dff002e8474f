"""`python -m taskflow_bench` in a checkout: what `make bench` and `make bench-gate` call."""

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from taskflow_bench import generator_cost, machine, page, table
from taskflow_bench.arena import open_arena
from taskflow_bench.contestants import CONTESTANTS, PROBE, TASKFLOW, Contestant, chosen
from taskflow_bench.errors import BenchBroke
from taskflow_bench.measuring import Effort
from taskflow_bench.report import Report, Turn
from taskflow_bench.rounds import order
from taskflow_bench.running import INTERRUPTED, cancel_on_signals, run_folder, say
from taskflow_bench.targets import GATE, of_probe
from taskflow_bench.turn import play
from taskflow_local.system_packages import ensure_installed

_ROUNDS = 3
_GATE_EFFORT = Effort(jobs=3_000, seconds=5.0)


def main(arguments: list[str]) -> int:
    """Measure; 0 unless a contestant fails, or the gate does."""
    options = _parser().parse_args(arguments)
    try:
        contestants = chosen([TASKFLOW, PROBE] if options.gate else options.only)
        ensure_installed()
        report = asyncio.run(_measure(contestants, options.rounds, _effort(options)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BenchBroke as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say("\n" + table.render(report))
    _keep(report, is_whole=not options.gate and len(contestants) == len(CONTESTANTS))
    return _gate(report) if options.gate else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m taskflow_bench", description=__doc__)
    names = ", ".join(each.name for each in CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often each is measured")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help=f"some of {names}"
    )
    parser.add_argument("--jobs", type=int, help="at most so many in a phase of posts")
    parser.add_argument("--seconds", type=float, help="at most so long a phase of posts")
    parser.add_argument("--gate", action="store_true", help="against the full probe, in short")
    return parser


def _effort(options: argparse.Namespace) -> Effort:
    usual = _GATE_EFFORT if options.gate else Effort()
    return Effort(jobs=options.jobs or usual.jobs, seconds=options.seconds or usual.seconds)


async def _measure(contestants: list[Contestant], rounds: int, effort: Effort) -> Report:
    """Round by round, so that what the machine does meanwhile meets all of them alike."""
    cancel_on_signals()
    checkout = Path.cwd().resolve()
    turns: list[Turn] = []
    async with run_folder(checkout, "run") as folder:
        cost = await generator_cost.measure(
            folder, connections=effort.connections, requests=effort.jobs
        )
        async with open_arena(folder, checkout) as arena:
            ran_on = await machine.describe(arena.servers)
            say("servers run")
            for round_, contestant in order(contestants, rounds):
                turn = await play(arena, contestant, round_, effort)
                say(f"round {round_}, {table.line(turn)}")
                turns.append(turn)
    return Report(
        date=datetime.now(UTC).date().isoformat(),
        rounds=rounds,
        jobs=effort.jobs,
        seconds=effort.seconds,
        machine=ran_on,
        generator=cost,
        turns=turns,
    )


def _keep(report: Report, *, is_whole: bool) -> None:
    """Every run as JSON; in the documentation those of all contestants with all their jobs."""
    results = Path(".taskflow") / "bench"
    path = results / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    path.write_text(report.model_dump_json(indent=1))
    say(f"kept in {path}")
    usual = Effort()
    is_whole = is_whole and report.jobs >= usual.jobs and report.seconds >= usual.seconds
    if not is_whole or report.rounds < _ROUNDS:
        say(f"not in docs/performance.md: that has all contestants in {_ROUNDS} full rounds")
        return
    page.write(Path("docs"), report)


def _gate(report: Report) -> int:
    found = of_probe(report, GATE)
    for each in found:
        say(f"{each.what}: {each.ratio:.2f}, at least {each.least:g}")
    return 0 if all(each.is_met for each in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
