"""How latency grows with load, up to where it breaks away."""

from collections.abc import Sequence

from taskflow_bench.arena import Arena
from taskflow_bench.cast import on_stage
from taskflow_bench.measuring import Measuring
from taskflow_bench.more.experiment import OURS, Extent
from taskflow_bench.more.findings import Cell, Findings, Table
from taskflow_bench.report import share_of

_RATES = (25, 50, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1_000, 1_250, 1_500, 2_000)
_MOST_JOBS = 1_000_000
_P99_MS = 500.0
_HEAD = ("POSTs/s", "p50 ms", "p99 ms", "largest ms", "cores in use", "generator's cores")


async def run(arena: Arena, extent: Extent) -> Findings:
    """Each load for a while, up to the first that takes too long."""
    effort = extent.effort(_MOST_JOBS)
    rows: list[list[Cell]] = []
    kept_up: float | None = None
    async with on_stage(arena, OURS, "knee") as cast:
        measuring = Measuring(arena, cast, effort)
        await measuring.warm_up()
        for rate in map(float, _RATES):
            phase, taken = await measuring.latency(rate)
            rows.append([rate, *_milliseconds(taken), phase.used.cores, phase.generator_cores])
            if share_of(taken, 0.99) > _P99_MS:
                break
            kept_up = rate
    return Findings(tables=[Table(head=_HEAD, rows=rows)], notes=[_knee(kept_up)])


def _milliseconds(taken: Sequence[float]) -> list[Cell]:
    return [share_of(taken, 0.5), share_of(taken, 0.99), taken[-1]]


def _knee(kept_up: float | None) -> str:
    limit = f"99 of 100 jobs are completed within {_P99_MS:g} ms of when their POST was due"
    if kept_up is None:
        return f"At none of these loads {limit}."
    return f"The knee: up to {kept_up:,.0f} POSTs/s {limit}."
