"""C12: the disk of PostgreSQL is full, first for its tables, then for its write-ahead log as well.

Without room for a table it refuses statements; without room for its log it panics, and does not
come up before there is room. Its supervisor, which starts it again and again, is played here.
Skipped where no tmpfs can be mounted.
"""

import asyncio
import time
from contextlib import AbstractContextManager
from pathlib import Path

from taskflow_chaos import faults
from taskflow_chaos.reading import jobs_read
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.small_disk import small_disk
from taskflow_chaos.stage import Stage, pace

DISK_MIB = 256
BEFORE_FAULT_SECONDS = 3.0
FULL_SECONDS = 20.0
AFTER_FAULT_SECONDS = 10.0
LOAD_SECONDS = BEFORE_FAULT_SECONDS + FULL_SECONDS + AFTER_FAULT_SECONDS
READS_PER_SECOND = 5.0
GOES_ON_SECONDS = 10.0


async def play(stage: Stage) -> None:
    """Fill it under load, keep it full, make room; two times."""
    tables, log = stage.parts(2)
    async with jobs_read(stage, READS_PER_SECOND):
        for part, ends_wal in ((tables, False), (log, True)):
            async with stage.submissions(pace(len(part), LOAD_SECONDS), part):
                await asyncio.sleep(BEFORE_FAULT_SECONDS)
                await _be_full(stage, ends_wal=ends_wal)
        await stage.all_ended()
    _require_both_kinds(stage)
    await stage.require_nothing_taken()


async def _be_full(stage: Stage, *, ends_wal: bool) -> None:
    """Keep the disk full for a while, and see the first job run that comes when there is room."""
    stage.fault("disk full for tables and log" if ends_wal else "disk full for tables")
    way_back = await faults.fill_database_disk(stage, FULL_SECONDS, ends_wal=ends_wal)
    back = time.time()
    figure = "postgresql_came_back_seconds" + ("_after_panic" if ends_wal else "")
    stage.figures[figure] = round(way_back, 1)
    await stage.require_start_after(back, "PostgreSQL's return, with room", GOES_ON_SECONDS)


def _require_both_kinds(stage: Stage) -> None:
    log = stage.cluster.postgres.log_path.read_text(errors="replace")
    refused = log.count("ERROR:  could not extend file")
    panics = log.count("PANIC:")
    stage.figures |= {"refused_for_want_of_room": refused, "panics": panics}
    stage.require(refused > 0, "PostgreSQL never refused a statement for want of room")
    stage.require(panics > 0, "PostgreSQL never panicked for want of room")


def _small_disk(folder: Path) -> AbstractContextManager[None]:
    return small_disk(folder / faults.DATABASE_DISK, DISK_MIB)


SCENARIO = Scenario(
    id="C12",
    title="PostgreSQL on a full disk",
    fault="the disk of PostgreSQL is full for 20 s, twice: for its tables, and for its log as well",
    asserts="goes on by itself: a new job runs within 10 s of PostgreSQL's return; nothing is taken"
    " from a living worker",
    jobs=2_000,
    surroundings=_small_disk,
    play=play,
)
