"""C10: PostgreSQL restarts at once, ten times."""

import asyncio
import time

from taskflow_chaos import faults
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_testing.own_servers import Outage

RESTARTS = 10
BEFORE_RESTART_SECONDS = 1.0
WELL_AGAIN_SECONDS = 5.0


async def play(stage: Stage) -> None:
    """Shut it down in immediate mode under load, which cuts every transaction, and start it."""
    database = stage.cluster.postgres
    for part in stage.parts(RESTARTS):
        async with stage.submissions(plan=part):
            await asyncio.sleep(BEFORE_RESTART_SECONDS)
            await faults.restart_database(stage)
            stage.fault("PostgreSQL immediate restart")
            back = database.outages[-1].ended or time.time()
            await stage.require_start_after(back, "PostgreSQL's return", WELL_AGAIN_SECONDS)
    await stage.all_ended()
    await stage.require_nothing_taken()
    refused = {"503", "no connection"}
    late = [
        answer
        for answer in stage.client.answers
        if answer.status in refused and not _is_excused(answer.at, database.outages)
    ]
    stage.require(
        not late,
        f"{len(late)} answers such as {late[:3]} later than {WELL_AGAIN_SECONDS:g} s after it was"
        " back",
    )


def _is_excused(moment: float, outages: list[Outage]) -> bool:
    return any(
        outage.began <= moment <= (outage.ended or outage.began) + WELL_AGAIN_SECONDS
        for outage in outages
    )


SCENARIO = Scenario(
    id="C10",
    title="PostgreSQL restarted",
    fault="PostgreSQL is shut down in immediate mode ten times and started again",
    asserts="503 with Retry-After, never 500; a new job runs within 5 s of its return;"
    " nothing is taken from a living worker",
    jobs=10_000,
    play=play,
)
