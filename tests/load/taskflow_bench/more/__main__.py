"""`python -m taskflow_bench.more` in a checkout: what `make bench-more` calls."""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from taskflow_bench import machine, page
from taskflow_bench.arena import Arena, open_arena
from taskflow_bench.more import render
from taskflow_bench.more.experiment import Experiment, Extent
from taskflow_bench.more.experiments import EXPERIMENTS, chosen
from taskflow_bench.more.findings import MoreReport, Section
from taskflow_bench.more.rates import Circumstance, measure
from taskflow_bench.running import cancel_on_signals, carry_out, run_folder, say

_TITLES = [(each.name, each.title) for each in EXPERIMENTS]


def main(arguments: list[str]) -> int:
    """Measure; 0 unless an experiment fails."""
    options = _parser().parse_args(arguments)
    extent = Extent(options.scale, options.backlog, options.memory_jobs)
    return carry_out(lambda: _measure(options.only, extent))


def _parser() -> argparse.ArgumentParser:
    usual = Extent()
    parser = argparse.ArgumentParser(prog="python -m taskflow_bench.more", description=__doc__)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        help=f"some of {', '.join(name for name, _ in _TITLES)}",
    )
    parser.add_argument(
        "--scale", type=_scale, default=usual.scale, help="of all numbers of jobs and seconds"
    )
    parser.add_argument(
        "--backlog",
        type=lambda text: [float(each) for each in text.split(",")],
        default=usual.backlog_millions,
        help="sizes of a backlog, in millions of jobs: 1,5",
    )
    parser.add_argument(
        "--memory-jobs",
        type=int,
        default=usual.memory_jobs,
        help="after how many jobs memory is looked at again",
    )
    return parser


def _scale(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0; 1 is what the documentation has")
    return value


async def _measure(names: Sequence[str], extent: Extent) -> None:
    """One after the other; what is found is kept at once, whatever becomes of those to come."""
    cancel_on_signals()
    experiments = chosen(names)
    kept_in = Path(".taskflow") / "bench" / f"more-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    checkout = Path.cwd().resolve()
    async with run_folder(checkout, "more") as folder, open_arena(folder, checkout) as arena:
        report = MoreReport(machine=await machine.describe(arena.servers), sections=[])
        say("servers run")
        # On servers that have just started the first figures would be the worst.
        await measure(arena, "rehearsal", Circumstance("rehearsal"), extent.effort())
        for experiment in experiments:
            say(f"{experiment.name}: about {max(1, round(experiment.minutes * extent.scale))} min")
            found = await _run(arena, experiment, extent)
            report = report.model_copy(update={"sections": [*report.sections, found]})
            kept_in.write_text(report.model_dump_json(indent=1))
            alone = report.model_copy(update={"sections": [found]})
            say("\n" + render.render(alone, _TITLES))
            if extent.scale >= 1:
                path = Path("docs") / page.PAGE
                path.write_text(render.update(path.read_text(), alone))
    say(f"kept in {kept_in}")
    if extent.scale < 1:
        say(f"not in docs/{page.PAGE}: that has the usual numbers or more")


async def _run(arena: Arena, experiment: Experiment, extent: Extent) -> Section:
    began = time.monotonic()
    findings = await experiment.run(arena, extent)
    return Section(
        experiment=experiment.name,
        date=datetime.now(UTC).date().isoformat(),
        seconds=round(time.monotonic() - began, 1),
        scale=extent.scale,
        findings=findings,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
