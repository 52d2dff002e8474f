"""C15: the workers' clocks are an hour wrong, half of them fast and half slow, the schedulers' ten
minutes (libfaketime).

Schedules do not exist yet, so "one job per tick" has nothing to look at. What hangs on time is: a
job begins when its `run_at` has come and not before, expires at its `expires_at` and not before,
and no lease of a live worker ends. All of it is judged by the database's clock, which is right.

Two workers are killed, a fast and a slow one, each with the process that renews its leases, so
that leases end in time as well. No job kills its
worker: two thirds of those that outlast a lease would go along and begin again, some seven times,
and the figure would be how long jobs wait for a slot.
"""

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import asyncpg

from taskflow_chaos import history
from taskflow_chaos.cluster import Layout
from taskflow_chaos.effects import read_effects
from taskflow_chaos.history import RecordedAttempt
from taskflow_chaos.keeper import Keeper
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.service_logs import ServiceLogs
from taskflow_chaos.stage import PER_SECOND, Stage
from taskflow_chaos.workload import Mix, PlannedJob
from taskflow_local.system_packages import Executable, ensure_installed

HOUR = 3_600.0
TEN_MINUTES = 600.0
LATE_SECONDS = 5.0
"""How long after its time a job may begin or expire."""
RUNS_AGAIN_SECONDS = 20.0
NOBODYS_QUEUE = "nobody"
START_SECONDS = 60.0

_EVERY = 20
_SHARED_MEMORY = Path("/dev/shm")
_LEFTOVERS = "*faketime*"
_FAKETIME = Executable("faketime", "faketime")

_TIMES = """
SELECT jobs.id, jobs.state::text AS state, jobs.expires_at, jobs.created_at, jobs.finished_at,
       jobs.queue, jobs.run_at,
       EXISTS (SELECT FROM job_events
               WHERE job_events.job_id = jobs.id AND target = 'retrying') AS was_retried,
       (SELECT min(at) FROM job_events
        WHERE job_events.job_id = jobs.id AND event = 'claim') AS claimed_at
FROM jobs
"""

_WITHOUT_LOG = """
SELECT count(*) FROM jobs
WHERE state = 'completed' AND NOT EXISTS (SELECT FROM log_chunks WHERE job_id = jobs.id)
"""


async def play(stage: Stage) -> None:
    """Let jobs begin, expire and go on for longer than a lease; each scheduler leads once."""
    jobs = [with_time(number, job) for number, job in enumerate(stage.plan)]
    fast, slow = stage.cluster.schedulers
    third = math.ceil(len(jobs) / 3)
    async with stage.submissions(plan=jobs[:third]):
        pass
    await _give_up_lead(fast)
    killed = []
    async with stage.submissions(plan=jobs[third : 2 * third]):
        killed.append(await _kill(stage, stage.cluster.consumers[0], third))
    await _give_up_lead(slow)
    async with stage.submissions(plan=jobs[2 * third :]):
        killed.append(await _kill(stage, stage.cluster.consumers[1], third))
    expiring = sum(job.options.get("queue") == NOBODYS_QUEUE for job in jobs)
    await stage.all_ended(also={"expired": expiring})
    connection = await stage.cluster.connect()
    try:
        rows = await connection.fetch(_TIMES)
        attempts = await history.recorded_attempts(connection)
        # S3 refuses what a clock signs that is wrong by more than a quarter of an hour.
        stage.figures["completed_jobs_without_log"] = await connection.fetchval(_WITHOUT_LOG)
    finally:
        await connection.close()
    await _count_wrong_clocks(stage, attempts)
    await stage.require_nothing_taken()
    await _require_rescues(stage, killed)
    _require_punctual_starts(stage, rows)
    _require_punctual_ends(stage, rows, expiring)


def with_time(number: int, job: PlannedJob) -> PlannedJob:
    """One in twenty each: begins later; may not begin late; can't begin; outlasts a lease."""
    if number % _EVERY == 0:
        return replace(job, options={"delay_seconds": 3.0 + number % 7})
    if number % _EVERY == 1:
        return replace(job, options={"ttl_seconds": 120.0})
    if number % _EVERY == 2:
        return replace(
            job,
            options={"ttl_seconds": 5.0 + number % 7, "queue": NOBODYS_QUEUE},
            cancel_after_seconds=None,
        )
    if number % _EVERY == 3:
        return replace(job, seconds=20.0)
    return job


async def _kill(stage: Stage, consumer: Keeper, jobs: int) -> int:
    """Kill it half-way through so many submissions, and what would end its leases; its pid."""
    await asyncio.sleep(jobs / PER_SECOND / 2)
    stage.require(consumer.kill_all(), f"{consumer.name} did not live to be killed")
    stage.fault("consumer kill -9")
    return consumer.pid


async def _require_rescues(stage: Stage, killed: Sequence[int]) -> None:
    orphans = await stage.orphans()
    for pid in killed:
        stage.require(
            any(each.worker_pid == pid and each.seconds is not None for each in orphans),
            f"no job of the killed consumer {pid} ran again",
        )
    # A job that was cancelled meanwhile does not run again.
    late = [
        each
        for each in orphans
        if each.state != "cancelled" and (each.seconds is None or each.seconds > RUNS_AGAIN_SECONDS)
    ]
    stage.require(not late, f"orphans ran again late or never: {late[:3]}")
    waits = [each.seconds for each in orphans if each.seconds is not None]
    stage.figures["worst_rescue_seconds"] = round(max(waits, default=0.0), 1)


async def _give_up_lead(scheduler: Keeper) -> None:
    """Restart it: the other one leads afterwards, if it did not before."""
    lives = len(scheduler.lives)
    await scheduler.restart()
    await scheduler.wait_life(lives)
    async with asyncio.timeout(START_SECONDS):
        while len(ServiceLogs([scheduler.log_path]).events("scheduler_started")) <= lives:
            await asyncio.sleep(0.2)


async def _count_wrong_clocks(stage: Stage, attempts: Sequence[RecordedAttempt]) -> None:
    """A fault is a process that was seen to have the wrong time, by what it wrote itself."""
    began = {(each.job_id, each.number): each.started_at for each in attempts}
    errors: defaultdict[int, list[float]] = defaultdict(list)
    for effect in await asyncio.to_thread(read_effects, stage.cluster.effects_folder):
        if effect.what == "began" and (effect.job_id, effect.attempt) in began:
            errors[effect.pid].append(effect.at - began[effect.job_id, effect.attempt])
    wrong = [median(each) for each in errors.values()]
    stage.fault(
        "worker process an hour fast", sum(abs(each - HOUR) < LATE_SECONDS for each in wrong)
    )
    stage.fault(
        "worker process an hour slow", sum(abs(each + HOUR) < LATE_SECONDS for each in wrong)
    )
    stage.require(
        all(abs(each) > HOUR - LATE_SECONDS for each in wrong), f"some clocks were right: {wrong}"
    )
    for scheduler, seconds in zip(
        stage.cluster.schedulers, (TEN_MINUTES, -TEN_MINUTES), strict=True
    ):
        logs = ServiceLogs([scheduler.log_path])
        stage.require(bool(logs.events("leadership_won")), f"{scheduler.name} never led")
        started = logs.events("scheduler_started")[0]["timestamp"]
        error = datetime.fromisoformat(started).timestamp() - scheduler.lives[0].began
        stage.require(
            abs(error - seconds) < START_SECONDS, f"{scheduler.name} is wrong by {error:.0f} s"
        )
        stage.fault("scheduler ten minutes wrong")


def _require_punctual_starts(stage: Stage, rows: Sequence[asyncpg.Record]) -> None:
    # A retry moves `run_at`, also of a job that is cancelled before its second attempt.
    delayed = [
        row
        for row in rows
        if row["claimed_at"]
        and not row["was_retried"]
        and row["run_at"] - row["created_at"] > timedelta(seconds=1)
    ]
    waited = [(row["claimed_at"] - row["run_at"]).total_seconds() for row in delayed]
    early = [seconds for seconds in waited if seconds < 0]
    stage.require(not early, f"{len(early)} jobs began before their time, by {early[:3]} s")
    stage.recovered(waited, "from a job's run_at to its first claim", limit=LATE_SECONDS)


def _require_punctual_ends(stage: Stage, rows: Sequence[asyncpg.Record], expiring: int) -> None:
    ended = [row for row in rows if row["state"] == "expired"]
    stage.require(len(ended) == expiring, f"{len(ended)} jobs expired, {expiring} were to")
    wrong = [row["id"] for row in ended if row["queue"] != NOBODYS_QUEUE]
    stage.require(not wrong, f"jobs expired that could begin in time: {wrong[:3]}")
    delays = [(row["finished_at"] - row["expires_at"]).total_seconds() for row in ended]
    early = [seconds for seconds in delays if seconds < 0]
    stage.require(not early, f"{len(early)} jobs expired too early, by {early[:3]} s")
    late = [seconds for seconds in delays if seconds > LATE_SECONDS]
    stage.require(not late, f"{len(late)} jobs expired too late, by {late[:3]} s")
    stage.figures["worst_expiry_delay_seconds"] = round(max(delays, default=0.0), 1)


@contextlib.contextmanager
def _faketime(_folder: Path) -> Iterator[None]:
    """Have the library; and clear away the memory it shares, which killed processes leave."""
    ensure_installed([_FAKETIME])
    before = set(_SHARED_MEMORY.glob(_LEFTOVERS))
    try:
        yield
    finally:
        for path in set(_SHARED_MEMORY.glob(_LEFTOVERS)) - before:
            path.unlink(missing_ok=True)


def _clock(offset_seconds: float) -> dict[str, str]:
    return {
        # $LIB is the dynamic linker's word for the architecture's folder.
        "LD_PRELOAD": "/usr/$LIB/faketime/libfaketimeMT.so.1",
        "FAKETIME": f"{offset_seconds:+.0f}",
        # A clock that is set wrong leaves the monotonic one alone.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


SCENARIO = Scenario(
    id="C15",
    title="Clocks wrong",
    fault="the clocks of all workers are an hour wrong, of the schedulers ten minutes, one half"
    " fast and the other slow",
    asserts="nothing begins or expires early, nor 5 s late; no job is taken from a live worker;"
    " an orphan runs again within 20 s",
    jobs=2_000,
    mix=Mix(kill_worker=0.0),
    play=play,
    layout=Layout(
        environment={
            "consumer-1": _clock(HOUR),
            "consumer-2": _clock(-HOUR),
            "consumer-3": _clock(HOUR),
            "consumer-4": _clock(-HOUR),
            "scheduler-1": _clock(TEN_MINUTES),
            "scheduler-2": _clock(-TEN_MINUTES),
        }
    ),
    surroundings=_faketime,
)
