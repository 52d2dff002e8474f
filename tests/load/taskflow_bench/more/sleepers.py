"""Many jobs that wait, in one consumer."""

import math

import asyncpg

from taskflow_bench import gauges
from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast, on_stage
from taskflow_bench.errors import BenchBroke
from taskflow_bench.measuring import Effort, Measuring
from taskflow_bench.more.crew import Crew
from taskflow_bench.more.experiment import OURS, Extent
from taskflow_bench.more.findings import Cell, Findings, Table
from taskflow_bench.work import Work, post

_JOBS = 10_000
_CONCURRENCY = 1_000
_SLEEP_SECONDS = 5.0
_ACCEPT_SECONDS = 120.0

_RAN = """
SELECT count(*) AS jobs, max(attempt) AS attempts,
       extract(epoch FROM max(finished_at) - min(started_at))::float8 AS took,
       sum(extract(epoch FROM finished_at - started_at))::float8 AS together,
       percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
           ORDER BY extract(epoch FROM finished_at - started_at)::float8) AS seconds
FROM jobs
"""


async def run(arena: Arena, extent: Extent) -> Findings:
    """They are accepted first; then one consumer that has room for a thousand begins."""
    effort = Effort(jobs=extent.jobs(_JOBS), seconds=_ACCEPT_SECONDS)
    work = Work([post("sleep", {"seconds": _SLEEP_SECONDS})], None)
    async with on_stage(arena, OURS, "sleepers", {"concurrency": _CONCURRENCY}) as cast:
        crew, memory = Crew(cast), gauges.Memory()
        measuring = Measuring(arena, cast, effort, work)
        await crew.stop()
        sent, _ = await measuring.accept()
        await crew.start()
        use = measuring.use()
        async with memory.watching({"worker": cast.pids["worker"]}):
            await measuring.until_done(sent.began, sent.accepted)
        cpu_seconds = use.so_far().cpu_seconds
        rows = await _rows(cast, sent.accepted)
    rows += [
        ["CPU ms a job, the consumer", cpu_seconds["worker"] * 1_000 / sent.accepted],
        ["CPU ms a job, all processes", sum(cpu_seconds.values()) * 1_000 / sent.accepted],
        ["peak MiB of the consumer", max(memory.looks["worker"])],
    ]
    head = [f"{sent.accepted:,} jobs that sleep {_SLEEP_SECONDS:g} s", ""]
    return Findings(tables=[Table(head=head, rows=rows)])


async def _rows(cast: Cast, jobs: int) -> list[list[Cell]]:
    connection = await asyncpg.connect(cast.place.database_url)
    try:
        ran = await connection.fetchrow(_RAN)
    finally:
        await connection.close()
    assert ran is not None
    if ran["jobs"] != jobs or ran["attempts"] != 1:
        raise BenchBroke(f"of {jobs} jobs {ran['jobs']} ran, one of them {ran['attempts']} times")
    least = math.ceil(jobs / _CONCURRENCY) * _SLEEP_SECONDS
    return [
        ["seconds for all, from the first claim", ran["took"]],
        [f"seconds at least, {_CONCURRENCY:,} at once", least],
        ["jobs running at once, mean", ran["together"] / ran["took"]],
        ["seconds from claim to completed, p50", ran["seconds"][0]],
        ["seconds from claim to completed, p99", ran["seconds"][1]],
    ]
