"""C18: a job's end, its cancel and its time-out fall on the same moment, in async, thread and
process handlers.

Deviation: the heartbeat is 0.5 s instead of 5 s. A worker hears of a cancel with its next beat;
with the default the cancels would arrive spread over five seconds, and few would meet an end.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from taskflow_chaos.cluster import Layout
from taskflow_chaos.effects import read_effects
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Duration, Mix, PlannedJob

TYPES = ("chaos.work", "chaos.thread", "chaos.process")
CANNOT_GO_ON = ("chaos.work", "chaos.process")
"""Handlers that can be ended from outside; a thread can only be told."""
JOBS_PER_SECOND = 25.0
HEARTBEAT_SECONDS = 0.5
ENDED = ("completed", "failed", "cancelled")

_JOBS = """
SELECT id, type, state::text AS state, error->>'type' AS error,
       extract(epoch FROM finished_at)::float8 AS finished_at,
       (SELECT count(*) FROM job_events
        WHERE job_id = jobs.id
          AND target IN ('completed', 'failed', 'cancelled', 'expired')) AS terminal_events,
       (SELECT count(*) FROM job_attempts WHERE job_id = jobs.id) AS attempts
FROM jobs
"""


async def play(stage: Stage) -> None:
    """Every job is contested by a cancel, by a time-out, or by both."""
    jobs = [contested(number, job, stage.random) for number, job in enumerate(stage.plan)]
    async with stage.submissions(plan=jobs, per_second=JOBS_PER_SECOND):
        pass
    await stage.all_ended(also={"cancelled": len(jobs), "failed": len(jobs)})
    connection = await stage.cluster.connect()
    try:
        rows = [dict(row) for row in await connection.fetch(_JOBS)]
    finally:
        await connection.close()
    _count_contests(stage, rows)
    _require_one_end(stage, rows)
    _require_fair_answers(stage, {row["id"]: row["state"] for row in rows})
    await _require_nothing_after_the_end(stage, rows)


def contested(number: int, job: PlannedJob, rng: random.Random) -> PlannedJob:
    """Types and contests in turn; all of it within some tenths of a second of the job's end."""
    contest = number // len(TYPES) % 3
    is_timed, is_cancelled = contest != 0, contest != 1
    return replace(
        job,
        type=TYPES[number % len(TYPES)],
        cancel_after_seconds=job.seconds + rng.uniform(-0.6, 0.1) if is_cancelled else None,
        options={
            "max_attempts": 1,
            **({"timeout_seconds": job.seconds + rng.uniform(-0.1, 0.2)} if is_timed else {}),
        },
    )


def _count_contests(stage: Stage, rows: Sequence[Mapping[str, Any]]) -> None:
    ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        ends[row["type"]][row["state"]] += 1
    for name in TYPES:
        for state in ENDED:
            stage.figures[f"{name}_{state}"] = ends[name][state]
            stage.require(ends[name][state] > 0, f"no {name} has ended {state}")
    told = sum(each.status_code == 202 for each in stage.client.cancels)
    stage.fault("cancel of a running job", told)
    stage.fault("time-out", sum(row["error"] == "timeout" for row in rows))


def _require_one_end(stage: Stage, rows: Sequence[Mapping[str, Any]]) -> None:
    several = [row["id"] for row in rows if row["terminal_events"] != 1]
    stage.require(not several, f"{len(several)} jobs have not ended once: {several[:3]}")
    again = [row["id"] for row in rows if row["attempts"] > 1]
    stage.require(not again, f"{len(again)} jobs of one attempt had more: {again[:3]}")
    odd = [row for row in rows if row["state"] == "failed" and row["error"] != "timeout"]
    stage.require(not odd, f"{len(odd)} jobs failed otherwise than by time-out: {odd[:2]}")


def _require_fair_answers(stage: Stage, states: Mapping[UUID, str]) -> None:
    """200 is "it is cancelled" and 409 "it has ended otherwise"; both stay true."""
    for status, may in ((200, {"cancelled"}), (409, {"completed", "failed"})):
        wrong = [
            each.job_id
            for each in stage.client.cancels
            if each.status_code == status and states[each.job_id] not in may
        ]
        stage.require(not wrong, f"cancels answered {status}, but not {may}: {wrong[:3]}")


async def _require_nothing_after_the_end(stage: Stage, rows: Sequence[Mapping[str, Any]]) -> None:
    """A handler that was cancelled or timed out, and can be stopped, has no effect after that."""
    ended = {row["id"]: row for row in rows if row["state"] in {"cancelled", "failed"}}
    late = [
        each.job_id
        for each in await asyncio.to_thread(read_effects, stage.cluster.effects_folder)
        if each.what == "done"
        and (row := ended.get(each.job_id)) is not None
        and row["type"] in CANNOT_GO_ON
        and each.at > row["finished_at"]
    ]
    stage.require(not late, f"{len(late)} handlers went on after their job's end: {late[:3]}")


SCENARIO = Scenario(
    id="C18",
    title="Cancel against completion against time-out",
    fault="cancels and time-outs fall on the moment at which a job ends",
    asserts="one terminal state each, and what a cancel was answered stays true; each of the three"
    " ends is seen in async, thread and process handlers",
    jobs=2_000,
    play=play,
    mix=Mix(
        durations=(Duration(1.0, 1.0, 2.0),),
        fail_once=0.0,
        kill_worker=0.0,
        cancelled=0.0,
        in_thread=0.0,
    ),
    layout=Layout(
        settings={
            "consumer": {
                "handlers": "taskflow_chaos.handlers,taskflow_chaos.process_handlers",
                "heartbeat_seconds": HEARTBEAT_SECONDS,
            }
        }
    ),
)
