"""C16: jobs that kill their worker whenever they run.

The same load runs twice, first without them, so that what they cost the others can be told. All
other jobs are short, or else those of ten seconds alone would be the slowest five per cent.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, get_args
from uuid import UUID

from taskflow_chaos import workload
from taskflow_chaos.effects import read_effects
from taskflow_chaos.handlers import Poison
from taskflow_chaos.result import percentile
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Duration, Mix, PlannedJob

POISON_SHARE = 0.01
MAX_ATTEMPTS = 4
"""What a user has who asks for nothing else."""
MOST_SLOWED = 2.0
ENDS_SECONDS = 300.0

_MIX = Mix(
    durations=(Duration(0.80, 0.01, 0.05), Duration(0.20, 1.0, 3.0)),
    kill_worker=0.0,
    cancelled=0.0,
)
_ENDED = """
SELECT id, state::text AS state, error->>'type' AS error,
       extract(epoch FROM finished_at - created_at)::float8 AS seconds
FROM jobs
"""


async def play(stage: Stage) -> None:
    """The load, then the same load with one poison job in a hundred."""
    before = [
        replace(job, key=f"before-{job.key}")
        for job in workload.plan(stage.random.randrange(2**32), stage.jobs, _MIX)
    ]
    async with stage.submissions(plan=before):
        pass
    await stage.client.wait_all_ended()
    jobs = with_poison(stage.plan)
    poison_keys = {job.key for job in jobs if job.behaviour in get_args(Poison)}
    async with stage.submissions(plan=jobs):
        pass
    await stage.all_ended(ENDS_SECONDS, also={"failed": len(poison_keys)})
    ids = {each.key: each.job_id for each in stage.client.accepted}
    poison = {ids[key] for key in poison_keys}
    await _require_stopped(stage, poison)
    await _require_others_little_slowed(stage, poison, before={ids[job.key] for job in before})


def with_poison(plan: Sequence[PlannedJob]) -> list[PlannedJob]:
    """One in a hundred, evenly spread: killed, exiting and segfaulting, in loop and thread."""
    deaths = get_args(Poison)
    jobs = list(plan)
    every = round(1 / POISON_SHARE)
    for count, number in enumerate(range(every // 2, len(jobs), every)):
        jobs[number] = replace(
            jobs[number],
            type=("chaos.work", "chaos.thread")[count % 2],
            behaviour=deaths[count % len(deaths)],
            options={"max_attempts": MAX_ATTEMPTS},
        )
    return jobs


async def _require_stopped(stage: Stage, poison: Collection[UUID]) -> None:
    """Each has killed no more workers than it has attempts, and says so in the end."""
    effects = await asyncio.to_thread(read_effects, stage.cluster.effects_folder)
    # A process that is killed from a thread may get as far as to note its end.
    begun = [each for each in effects if each.job_id in poison and each.what == "began"]
    crashes = Counter(each.job_id for each in begun)
    for _ in crashes.elements():
        stage.fault("a job killed what ran it")
    stage.figures["most_crashes_of_a_job"] = max(crashes.values(), default=0)
    workers = {life.pid for each in stage.cluster.consumers for life in each.lives}
    killed = sum(each.pid in workers for each in begun)
    stage.figures["workers_killed"] = killed
    stage.require(crashes.keys() == poison, "a poison job never ran")
    stage.require(
        0 < killed <= len(poison), f"{len(poison)} poison jobs took {killed} workers along"
    )
    many = {job: count for job, count in crashes.items() if count > MAX_ATTEMPTS}
    stage.require(not many, f"{len(many)} jobs crashed more than {MAX_ATTEMPTS} times: {many}")
    rows = [row for row in await _jobs(stage) if row["id"] in poison]
    others = [row for row in rows if (row["state"], row["error"]) != ("failed", "worker_lost")]
    stage.require(not others, f"poison jobs that did not fail with worker_lost: {others[:3]}")


async def _require_others_little_slowed(
    stage: Stage, poison: Collection[UUID], before: Collection[UUID]
) -> None:
    rows = await _jobs(stage)
    baseline = percentile([row["seconds"] for row in rows if row["id"] in before], 0.95)
    others = [row["seconds"] for row in rows if row["id"] not in poison and row["id"] not in before]
    slowed = percentile(others, 0.95)
    assert baseline is not None
    assert slowed is not None
    stage.figures["p95_seconds_without_poison"] = round(baseline, 2)
    stage.figures["p95_seconds_with_poison"] = round(slowed, 2)
    stage.require(
        slowed <= MOST_SLOWED * baseline,
        f"the others' p95 from submission to end rose from {baseline:.2f} s to {slowed:.2f} s",
    )


async def _jobs(stage: Stage) -> list[dict[str, Any]]:
    connection = await stage.cluster.connect()
    try:
        return [dict(row) for row in await connection.fetch(_ENDED)]
    finally:
        await connection.close()


SCENARIO = Scenario(
    id="C16",
    title="Poison jobs",
    fault="one job in a hundred kills whatever runs it, at each attempt",
    asserts="at most max_attempts crashes each, one of them of a worker, then failed with"
    " worker_lost; the others' p95 at most doubled",
    jobs=2_000,
    play=play,
    mix=_MIX,
)
