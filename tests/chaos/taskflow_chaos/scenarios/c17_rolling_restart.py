"""C17: everything is told to end (SIGTERM) and started again, one after the other, ten times.

The APIs, the consumers and the schedulers take turns side by side, each waiting until the one
before serves again. Two consumers have the default time for their jobs to end in; the other two
have a second, so that they hand jobs back.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from taskflow_chaos import history
from taskflow_chaos.cluster import Layout
from taskflow_chaos.keeper import Keeper
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Mix

ROUNDS = 10
JOBS_PER_ROUND = 1_250
ROUND_SECONDS = 25.0
"""About what a round of the consumers takes; the load of a round is spread over it, 50 jobs a
second."""
STARTS_SECONDS = 60.0
ENDS_SECONDS = 45.0
"""The grace of 30 s and what comes after it."""
SHORT_GRACE_SECONDS = 1.0


async def play(stage: Stage) -> None:
    """One round for each part of the jobs."""
    slowest: Counter[str] = Counter()
    for part in stage.parts(max(2, min(ROUNDS, round(stage.jobs / JOBS_PER_ROUND)))):
        async with stage.submissions(plan=part, per_second=len(part) / ROUND_SECONDS):
            cluster = stage.cluster
            async with asyncio.TaskGroup() as turns:
                for services in (cluster.apis, cluster.consumers, cluster.schedulers):
                    turns.create_task(_restart_in_turn(stage, services, slowest))
    await stage.all_ended()
    for role, milliseconds in slowest.items():
        stage.figures[f"longest_end_seconds_{role}"] = milliseconds / 1000
    await _require_no_attempt_used_up(stage)
    answers = stage.client.answers
    errors = Counter(each.status for each in answers if each.status.startswith("5"))
    stage.require(not errors, f"clients were answered {dict(errors)}")
    unanswered = [each for each in answers if each.status == "no connection" and each.was_sent]
    stage.require(
        not unanswered,
        f"{len(unanswered)} requests were sent and never answered, such as {unanswered[:2]}",
    )


async def _restart_in_turn(stage: Stage, services: Sequence[Keeper], slowest: Counter[str]) -> None:
    for service in services:
        role = service.name.partition("-")[0]
        starts = _starts(service)
        began = time.monotonic()
        code = await service.restart(ENDS_SECONDS)
        seconds = time.monotonic() - began
        slowest[role] = max(slowest[role], round(seconds * 1000))
        stage.fault(f"{role} SIGTERM")
        stage.require(code == 0, f"{service.name} ended with {code} after its SIGTERM")
        async with asyncio.timeout(STARTS_SECONDS):
            while _starts(service) == starts or not await _answers(stage, service):
                await asyncio.sleep(0.2)


async def _answers(stage: Stage, service: Keeper) -> bool:
    return service not in stage.cluster.apis or await stage.cluster.answers(service)


def _starts(service: Keeper) -> int:
    """How often it has said that it serves."""
    role = service.name.partition("-")[0]
    return service.log_path.read_text(errors="replace").count(f'"{role}_started"')


async def _require_no_attempt_used_up(stage: Stage) -> None:
    """Jobs have as many attempts as they ask for by failing, whatever was restarted under them."""
    connection = await stage.cluster.connect()
    try:
        attempts = await history.recorded_attempts(connection)
        released = await connection.fetchval(
            "SELECT count(*) FROM job_events WHERE event = 'release'"
        )
    finally:
        await connection.close()
    stage.figures["handed_back"] = released
    stage.require(released > 0, "no job was running in a consumer when its time was up")
    ids = {each.key: each.job_id for each in stage.client.accepted}
    failing = {ids[job.key] for job in stage.plan if job.behaviour == "fails_once"}
    wasted = [
        each
        for each in attempts
        if each.outcome == "lost" or each.number > (2 if each.job_id in failing else 1)
    ]
    stage.require(not wasted, f"{len(wasted)} attempts were used up, such as {wasted[:2]}")


SCENARIO = Scenario(
    id="C17",
    title="Rolling restarts",
    fault="every API, consumer and scheduler is restarted by SIGTERM in turn, ten times",
    asserts="at 50 jobs/s no attempt used up, no 5xx, no request without an answer, exit code 0",
    jobs=ROUNDS * JOBS_PER_ROUND,
    play=play,
    mix=Mix(kill_worker=0.0),
    layout=Layout(
        settings={
            "consumer-3": {"shutdown_grace_seconds": SHORT_GRACE_SECONDS},
            "consumer-4": {"shutdown_grace_seconds": SHORT_GRACE_SECONDS},
        }
    ),
)
