"""C19: the faults of the other scenarios in a random mix, each server and service with its own.

What falls together is left to chance. A lane goes through its faults in an order that the seed
gives, all of them before one comes again, with a pause after each; lanes run side by side.

Not in the mix: C6, which needs three brokers (network partitions are there by way of proxies); the
wrong clocks of C15, which would make the handlers' notes incomparable. A full disk (C12) is left
out where no tmpfs can be mounted. The faults are in `fault_lanes`.
"""

import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from taskflow_chaos import faults, job_logs, leaks
from taskflow_chaos.cluster import Layout
from taskflow_chaos.errors import CannotRun
from taskflow_chaos.fault_lanes import Lane, fault_order, lanes
from taskflow_chaos.job_logs import LogAudit
from taskflow_chaos.reading import jobs_read
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.scenarios.c18_cancel_race import contested
from taskflow_chaos.small_disk import small_disk
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Mix, PlannedJob
from taskflow_testing.own_servers import Outage

SECONDS = 900.0
JOBS = 20_000
PER_SECOND = JOBS / SECONDS
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 40.0
POISON_JOBS = 20
POISON_ATTEMPTS = 4
CONTESTED_EVERY = 100
DISK_MIB = 2_048
READS_PER_SECOND = 2.0
ALL_ENDED_SECONDS = 300.0
LOGS_READ = 2_000
LOGS_THERE_SECONDS = 90.0
SILENT_TYPE = "chaos.process"
KILL_TAKES_SECONDS = 5.0
KILL_TAKES_SECONDS_WHILE_SLOW = 30.0
"""Lines of so long may be in the hands of a worker while S3 or PostgreSQL is slow or frozen."""
STORING_LANES = ("PostgreSQL", "S3", "network")


async def play(stage: Stage) -> None:
    """Mix for as long as jobs come in; then all is well, and everything must come right."""
    disk = stage.cluster.folder / faults.DATABASE_DISK
    jobs = with_poison_and_contests(stage.plan, stage.random)
    # Now: from here on the order in which chance is asked is itself left to chance.
    side_by_side = [
        (lane, random.Random(stage.random.random()))
        for lane in lanes(with_full_disk=disk.is_mount())
    ]
    before = await leaks.count_at_rest(stage)
    async with jobs_read(stage, READS_PER_SECOND):
        hindered: list[Outage] = []
        async with stage.submissions(PER_SECOND, jobs):
            end = time.monotonic() + len(jobs) / PER_SECOND
            async with asyncio.TaskGroup() as mix:
                for lane, rng in side_by_side:
                    mix.create_task(_keep_injecting(stage, lane, rng, end, hindered))
        well_since = time.time()
        await stage.all_ended(ALL_ENDED_SECONDS, also=_may_end(jobs))
        stage.recovered(
            [time.time() - well_since],
            "from the end of the last fault until all jobs had ended",
            limit=ALL_ENDED_SECONDS,
        )
    await _require_logs(stage, jobs, hindered)
    await leaks.require_none(stage, before)


async def _keep_injecting(
    stage: Stage, lane: Lane, rng: random.Random, end: float, hindered: list[Outage]
) -> None:
    """Until the end; `hindered` is when logs could not be stored as usual."""
    for fault in fault_order(lane, rng):
        await asyncio.sleep(rng.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS))
        if time.monotonic() > end:
            return
        stage.say(f"{lane.name}: {fault.name}")
        stage.fault(fault.name)
        lasts = Outage(time.time())
        if lane.name in STORING_LANES:
            hindered.append(lasts)
        await fault.inject(stage, rng)
        lasts.ended = time.time()


def with_poison_and_contests(plan: Sequence[PlannedJob], rng: random.Random) -> list[PlannedJob]:
    """Some jobs kill whatever runs them (C16), some are ended from three sides at once (C18)."""
    jobs = list(plan)
    poison = rng.sample(range(len(jobs)), min(POISON_JOBS, len(jobs) // CONTESTED_EVERY))
    for number, position in enumerate(range(0, len(jobs), CONTESTED_EVERY)):
        short = replace(jobs[position], seconds=rng.uniform(1.0, 2.0), behaviour="completes")
        jobs[position] = contested(number, short, rng)
    for position in poison:
        jobs[position] = replace(
            jobs[position],
            type="chaos.work",
            behaviour="is_killed",
            options={"max_attempts": POISON_ATTEMPTS},
        )
    return jobs


def _may_end(jobs: Sequence[PlannedJob]) -> dict[str, int]:
    """How many may fail by their own doing, or be cancelled."""
    contests = sum("timeout_seconds" in job.options for job in jobs)
    poison = sum(job.behaviour == "is_killed" for job in jobs)
    # One that is contested has one attempt, which a fault may cost it.
    single = sum(job.options.get("max_attempts") == 1 for job in jobs)
    return {
        "failed": poison + max(contests, single),
        "cancelled": sum(job.cancel_after_seconds is not None for job in jobs),
    }


async def _require_logs(
    stage: Stage, jobs: Sequence[PlannedJob], hindered: Sequence[Outage]
) -> None:
    """A sample of the logs is complete but for what a killed worker took along."""
    # Those in processes of their own log nothing.
    speaking = {job.key for job in jobs if job.type != SILENT_TYPE}
    ids = sorted({each.job_id for each in stage.client.accepted if each.key in speaking})
    sample = set(stage.random.sample(ids, min(LOGS_READ, len(ids))))

    def taken_by_a_kill(moment: float) -> float:
        later = moment + KILL_TAKES_SECONDS_WHILE_SLOW
        slow = any(each.covers(moment) or moment < each.began < later for each in hindered)
        return KILL_TAKES_SECONDS_WHILE_SLOW if slow else KILL_TAKES_SECONDS

    written, excused = await job_logs.expected(stage.cluster, taken_by_a_kill)
    expected = Counter({each: count for each, count in written.items() if each[0] in sample})
    audit = LogAudit(stage.client, "works")
    missing, _ = await audit.wait_complete(expected, LOGS_THERE_SECONDS)
    stage.figures["attempts_whose_logs_were_read"] = len(expected)
    excused = Counter({each: count for each, count in excused.items() if each[0] in sample})
    stage.figures["attempts_excused_by_a_kill"] = len(excused)
    stage.figures["attempts_whose_lines_a_kill_took"] = len(await audit.missing(excused))
    stage.require(
        len(excused) < len(expected), f"{len(excused)} attempts were excused, {len(expected)} not"
    )
    stage.require(
        not missing,
        f"the lines of {len(missing)} of {len(expected)} attempts were not there"
        f" {LOGS_THERE_SECONDS:.0f} s after the end: {missing[:3]}",
    )


@contextlib.contextmanager
def _roomy_disk(folder: Path) -> Iterator[None]:
    """A disk that can be filled, if there can be one."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder / faults.DATABASE_DISK, DISK_MIB))
        except CannotRun as error:
            sys.stderr.write(f"C19 does without a full disk: {error}\n")
        yield


SCENARIO = Scenario(
    id="C19",
    title="Everything at once",
    fault="the faults of the other scenarios in a random mix for 15 minutes",
    asserts="all of the above: all jobs end, logs are there, no connection leaks; 503 with"
    " Retry-After at worst",
    jobs=JOBS,
    layout=Layout(
        settings={
            "consumer": {
                "handlers": "taskflow_chaos.handlers,taskflow_chaos.process_handlers",
                "log_spool_dir": "spool",
            }
        },
        proxies={
            "s3": ("api", "consumer", "scheduler"),
            "rabbitmq": ("api", "consumer-1"),
            "postgres": ("consumer-2", "scheduler-1"),
        },
    ),
    # A kill takes lines along: with as many as elsewhere there were few logs left to look at.
    mix=Mix(kill_worker=0.001),
    limit_seconds=2_400.0,
    surroundings=_roomy_disk,
    play=play,
)
