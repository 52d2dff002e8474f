"""Rates with jobs that log much."""

import asyncio
import time

import asyncpg

from taskflow_bench import handlers
from taskflow_bench.arena import Arena
from taskflow_bench.cast import Cast
from taskflow_bench.errors import BenchBroke
from taskflow_bench.more.experiment import Extent
from taskflow_bench.more.findings import Cell, Findings, Table
from taskflow_bench.more.rates import HEAD, Circumstance, Rates, measure
from taskflow_bench.work import TEXT, Work, post

_LINES = (1, 100)
_JOBS = 3_000
_STORED_WITHIN_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_MISSING = """
SELECT count(*) FROM jobs LEFT JOIN (
    SELECT job_id, sum(line_count) AS lines FROM log_chunks GROUP BY job_id
) AS logs ON logs.job_id = jobs.id
WHERE coalesce(lines, 0) < $1
"""


async def run(arena: Arena, extent: Extent) -> Findings:
    """A hundred lines beside one."""
    rows, notes = [], []
    for lines in _LINES:
        rates = await measure(arena, f"lines-{lines}", _logging(lines), extent.effort(_JOBS))
        rows.append(_row(lines, rates))
        notes += rates.notes
    head = ["", *HEAD, "lines/s, both at once"]
    return Findings(tables=[Table(head=head, rows=rows)], notes=notes)


def _row(lines: int, rates: Rates) -> list[Cell]:
    return [*rates.row, rates.both.per_second * lines]


def _logging(lines: int) -> Circumstance:
    work = Work([post("bench.lines", {"text": TEXT, "lines": lines})], TEXT)

    async def all_are_stored(cast: Cast) -> None:
        await _wait_stored(cast, lines)

    title = "1 line" if lines == 1 else f"{lines} lines"
    settings = {"handlers": handlers.MODULE}
    return Circumstance(title, work, settings=settings, check=all_are_stored)


async def _wait_stored(cast: Cast, lines: int) -> None:
    """Return when every job's lines are in S3.

    Raises:
        BenchBroke: some are not after a while.
    """
    deadline = time.monotonic() + _STORED_WITHIN_SECONDS
    connection = await asyncpg.connect(cast.place.database_url)
    try:
        while missing := await connection.fetchval(_MISSING, lines):
            if time.monotonic() > deadline:
                raise BenchBroke(f"{missing} jobs lack lines of their logs; see {cast.folder}")
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await connection.close()
