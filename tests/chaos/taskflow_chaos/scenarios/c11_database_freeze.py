"""C11: PostgreSQL stands still for half a minute; then 200 of its backends are ended."""

import asyncio
import time
from collections.abc import Sequence

from taskflow_chaos import faults, leaks
from taskflow_chaos.reading import jobs_read
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage, pace
from taskflow_chaos.workload import PlannedJob

FROZEN_SECONDS = 30.0
TERMINATED = 200
TERMINATED_AT_ONCE = 10
WAVE_SECONDS = 0.5
# About: where there are fewer than ten, a wave ends fewer.
TERMINATING_SECONDS = 15.0
BEFORE_FAULT_SECONDS = 3.0
AFTER_FAULT_SECONDS = 10.0
READS_PER_SECOND = 5.0
WELL_AGAIN_SECONDS = 5.0


async def play(stage: Stage) -> None:
    """Freeze all its processes under load, then end backends under load; count them at the end."""
    frozen, terminated = stage.parts(2)
    before = await leaks.count_at_rest(stage)
    async with jobs_read(stage, READS_PER_SECOND):
        async with stage.submissions(_pace(frozen, FROZEN_SECONDS), frozen):
            await asyncio.sleep(BEFORE_FAULT_SECONDS)
            await _freeze(stage)
        async with stage.submissions(_pace(terminated, TERMINATING_SECONDS), terminated):
            await asyncio.sleep(BEFORE_FAULT_SECONDS)
            await _terminate(stage)
        await stage.all_ended()
    await leaks.require_none(stage, before)
    await stage.require_nothing_taken()


def _pace(jobs: Sequence[PlannedJob], fault_seconds: float) -> float:
    """So that some are left after the fault."""
    return pace(len(jobs), BEFORE_FAULT_SECONDS + fault_seconds + AFTER_FAULT_SECONDS)


async def _freeze(stage: Stage) -> None:
    stage.fault("PostgreSQL SIGSTOP 30 s")
    await faults.freeze_server(stage.cluster.postgres, FROZEN_SECONDS)
    await _require_well_again(stage)


async def _terminate(stage: Stage) -> None:
    ended = await faults.terminate_backends(
        stage, stage.random, TERMINATED, at_once=TERMINATED_AT_ONCE, wave_seconds=WAVE_SECONDS
    )
    stage.fault("backend terminated", ended)
    await _require_well_again(stage)


async def _require_well_again(stage: Stage) -> None:
    await stage.require_start_after(time.time(), "the end of the fault", WELL_AGAIN_SECONDS)


SCENARIO = Scenario(
    id="C11",
    title="PostgreSQL frozen, backends terminated",
    fault="all processes of PostgreSQL stand still (SIGSTOP) for 30 s; then 200 backends are ended",
    asserts="no connection is left open out of use; a new job runs within 5 s of the fault's end;"
    " nothing is taken from a living worker",
    jobs=3_000,
    play=play,
)
