"""What a backlog costs: submissions, the worker and reads with and without one."""

import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import asyncpg

from taskflow_bench.arena import Arena
from taskflow_bench.cast import NEVER_REACHED, Cast, on_stage
from taskflow_bench.measuring import Measuring, counted
from taskflow_bench.more.crew import Crew
from taskflow_bench.more.experiment import OURS, Extent
from taskflow_bench.more.filling import fill
from taskflow_bench.more.findings import Cell, Findings, Table, ratio
from taskflow_bench.more.reads import read
from taskflow_bench.work import ECHO, Work

_MILLION = 1_000_000
_TIMES, _SECONDS = 100, 10.0
_READS: Mapping[str, str] = {
    "the newest 50, ms": "/api/v1/jobs?limit=50",
    "50 that have failed, ms": "/api/v1/jobs?state=failed&limit=50",
    "50 that wait, ms": "/api/v1/jobs?state=queued&limit=50",
    "counts by state, ms": "/api/v1/jobs/stats",
    "counts of the last hour, ms": "/api/v1/jobs/stats?created_after={hour_ago}",
}
# To look through millions of jobs once a second would be what is measured. Their texts are not
# compared here; of the backlog none has ended before.
_CONTESTANT = replace(
    OURS,
    finished="""
    SELECT job_id::text AS id, finished_at, NULL::text AS text FROM job_attempts
    WHERE outcome = 'completed'
    """,
)


async def run(arena: Arena, extent: Extent) -> Findings:
    """Without a backlog, and with each of those that were asked for."""
    sizes = [0, *(round(each * _MILLION * extent.scale) for each in extent.backlog_millions)]
    found = [await _Backlog(arena, extent, size).measure() for size in sizes]
    plain = found[0]
    head = ["", "no backlog"]
    for size in sizes[1:]:
        head += [f"{size:,} jobs", "ratio"]
    rows: list[list[Cell]] = [
        [
            name,
            plain[name],
            *(cell for each in found[1:] for cell in (each[name], ratio(each[name], plain[name]))),
        ]
        for name in plain
    ]
    return Findings(tables=[Table(head=head, rows=rows)])


class _Backlog:
    """One size of it, on a stage of its own."""

    def __init__(self, arena: Arena, extent: Extent, size: int) -> None:
        self._arena = arena
        self._extent = extent
        self._size = size

    async def measure(self) -> dict[str, Cell]:
        """The figures by their names, times in milliseconds (median)."""
        settings = {"quota_waiting_jobs": NEVER_REACHED}
        name = f"backlog-{self._size}"
        async with on_stage(self._arena, _CONTESTANT, name, settings) as cast:
            effort, work = self._extent.effort(), Work(ECHO.posts, None)
            measuring, crew = Measuring(self._arena, cast, effort, work), Crew(cast)
            await measuring.warm_up()
            await crew.stop()
            if self._size:
                model = await _model(measuring, cast, work)
                await fill(cast.place.database_url, cast.place.amqp_url, model, self._size)
            sent, accepted = await measuring.accept()
            reads = {name: await self._read(cast, path) for name, path in _READS.items()}
            return {
                "accepted/s": accepted.per_second,
                "drained/s": await _drain(measuring, crew, sent.accepted),
                **reads,
            }

    async def _read(self, cast: Cast, path: str) -> Cell:
        hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3_600))
        path = path.format(hour_ago=hour_ago)
        found = await read(cast, path, times=self._extent.jobs(_TIMES), seconds=_SECONDS)
        if found.milliseconds is None:
            return ", ".join(f"{times} times {status}" for status, times in found.refused.items())
        return found.milliseconds


async def _model(measuring: Measuring, cast: Cast, work: Work) -> UUID:
    """A job that the API accepts now, and that waits."""
    await measuring.send(cast.load(work, connections=1, requests=1, seconds=60.0))
    connection = await asyncpg.connect(cast.place.database_url)
    try:
        found = await connection.fetchval("SELECT id FROM jobs WHERE state = 'queued'")
    finally:
        await connection.close()
    assert isinstance(found, UUID)
    return found


async def _drain(measuring: Measuring, crew: Crew, jobs: int) -> float:
    """The rate of the first `jobs` that are done, of all that wait."""
    began = time.time()
    use = measuring.use()
    await crew.start()
    await measuring.until_done(began, jobs, or_more=True)
    ends = sorted((await measuring.ends(began)).values())
    return counted(ends[:jobs], use.so_far()).per_second
