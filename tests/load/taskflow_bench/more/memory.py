"""What each process takes: idle, busy, and after many jobs."""

import asyncio
from collections.abc import Mapping

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import on_stage
from taskflow_bench.measuring import Effort, Measuring
from taskflow_bench.more.experiment import OURS, Extent
from taskflow_bench.more.findings import Cell, Findings, Table, ratio
from taskflow_bench.report import figure

_PIECES = 10
_CALM_SECONDS = 10.0
_AS_LONG_AS_IT_TAKES = 86_400.0

Mib = Mapping[str, float]


async def run(arena: Arena, extent: Extent) -> Findings:
    """A tenth of the jobs after the other; then calm again."""
    jobs = extent.jobs(extent.memory_jobs)
    effort = Effort(jobs=max(1, jobs // _PIECES), seconds=_AS_LONG_AS_IT_TAKES)
    async with on_stage(arena, OURS, "memory") as cast:
        roots = cast.pids | {each.name: each.pid for each in arena.servers.all()}
        measuring = Measuring(arena, cast, effort)
        await measuring.warm_up()
        idle = await _when_calm(roots)
        busy: list[Mib] = []
        rates: list[float] = []
        for _ in range(_PIECES):
            memory = gauges.Memory()
            async with memory.watching(roots):
                rates.append((await measuring.both()).per_second)
            busy.append({name: figure(looks).median for name, looks in memory.looks.items()})
        after = await _when_calm(roots)
    head = ["MiB", "idle", "busy, the first tenth", "busy, the last tenth", "ratio"]
    head += [f"idle after {effort.jobs * _PIECES:,} jobs", "ratio to idle"]
    return Findings(
        tables=[Table(head=head, rows=[_row(name, idle, busy, after) for name in roots])],
        notes=[
            f"Completed: {rates[0]:,.0f} jobs/s in the first tenth, {rates[-1]:,.0f} in the last."
        ],
    )


def _row(name: str, idle: Mib, busy: list[Mib], after: Mib) -> list[Cell]:
    first, last = busy[0][name], busy[-1][name]
    return [
        name,
        idle[name],
        first,
        last,
        ratio(last, first),
        after[name],
        ratio(after[name], idle[name]),
    ]


async def _when_calm(roots: Mapping[str, int]) -> Mib:
    await asyncio.sleep(_CALM_SECONDS)
    memory = gauges.Memory()
    memory.look(roots)
    return {name: looks[0] for name, looks in memory.looks.items()}
