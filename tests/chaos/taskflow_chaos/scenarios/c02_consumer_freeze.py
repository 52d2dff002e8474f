"""C2: consumers freeze in the middle of their jobs and wake up when these have moved on.

The first one is stopped alone, so that its sibling, which renews the leases, has to see it; the
second one is stopped with all that it has started, as a paused machine is.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from taskflow_chaos import history
from taskflow_chaos.effects import Effect, read_effects
from taskflow_chaos.history import RecordedAttempt
from taskflow_chaos.keeper import Keeper
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_chaos.workload import Duration, Mix

LEASE_SECONDS = 15.0
FROZEN_SECONDS = 2 * LEASE_SECONDS
JOBS_PER_SECOND = 3.0
"""Three consumers have slots for all that runs, so that a wait is the fault's."""
LEAST_HELD = 5
MOST_WAITING_SECONDS = 45.0
RUNS_AGAIN_SECONDS = 20.0


@dataclass(frozen=True)
class Freeze:
    """What a worker was running when it was stopped, and when it was stopped and went on."""

    pid: int
    held: frozenset[tuple[UUID, int]]
    began: float
    ended: float


async def play(stage: Stage) -> None:
    """Freeze one of the four, then another one, for two leases each."""
    first, second, *_ = stage.random.sample(stage.cluster.consumers, 4)
    async with stage.submissions(per_second=JOBS_PER_SECOND):
        freezes = [
            await _freeze(stage, first, first.freeze),
            await _freeze(stage, second, second.freeze_all),
        ]
    await stage.all_ended()
    connection = await stage.cluster.connect()
    try:
        attempts = await history.recorded_attempts(connection)
        orphans = await history.orphans(connection, {each.pid: each.began for each in freezes})
    finally:
        await connection.close()
    for freeze in freezes:
        await _require_refusal(stage, freeze, attempts)
    stage.recovered(
        [each.seconds for each in orphans if each.seconds is not None],
        "from a worker's freeze to the start of its job's next attempt",
        limit=RUNS_AGAIN_SECONDS,
    )


async def _freeze(stage: Stage, consumer: Keeper, stop: Callable[[], bool]) -> Freeze:
    """Stop it while it is busy, for two leases, and wait until it has come to itself."""
    async with asyncio.timeout(MOST_WAITING_SECONDS):
        while len(_running(await _effects(stage), consumer.pid)) < LEAST_HELD:
            await asyncio.sleep(0.2)
    began = time.time()
    if stop():
        stage.fault("consumer frozen for two leases")
    held = _running(await _effects(stage), consumer.pid)
    await asyncio.sleep(FROZEN_SECONDS)
    ended = time.time()
    stage.require(consumer.thaw(), f"{consumer.name} ended while it was frozen")
    stage.say(f"{consumer.name} was frozen with {len(held)} jobs")
    return Freeze(consumer.pid, held, began, ended)


async def _effects(stage: Stage) -> list[Effect]:
    return await asyncio.to_thread(read_effects, stage.cluster.effects_folder)


def _running(effects: list[Effect], pid: int) -> frozenset[tuple[UUID, int]]:
    """The attempts that a process has begun and not done."""
    ours = [each for each in effects if each.pid == pid]
    done = {(each.job_id, each.attempt) for each in ours if each.what == "done"}
    return frozenset({(each.job_id, each.attempt) for each in ours} - done)


async def _require_refusal(stage: Stage, freeze: Freeze, attempts: list[RecordedAttempt]) -> None:
    """What the worker did after it woke up has changed nothing, and it was told so."""
    outcomes = {(each.job_id, each.number): each.outcome for each in attempts}
    late = [
        (each.job_id, each.attempt)
        for each in await _effects(stage)
        if each.pid == freeze.pid and each.what == "done" and each.at >= freeze.ended
    ]
    late = [each for each in late if each in freeze.held]
    recorded = [each for each in late if outcomes.get(each) not in {"lost", "cancelled"}]
    stage.require(not recorded, f"late outcomes of a frozen worker were recorded: {recorded[:3]}")
    refused = {
        (UUID(str(line["job_id"])), line["attempt"])
        for line in stage.cluster.logs.events("job_outcome_refused")
    }
    seen = [each for each in late if each in refused]
    stage.require(bool(seen), f"no late outcome of worker {freeze.pid} was seen to be refused")
    counted = int(stage.figures.get("late_outcomes", 0)) + len(late)
    stage.figures["late_outcomes"] = counted


SCENARIO = Scenario(
    id="C2",
    title="Consumers frozen",
    fault="two consumers are frozen (SIGSTOP) for two leases, one of them with its children",
    asserts="late outcomes are refused and at least one of each is seen; an orphan runs again"
    " within 20 s of the freeze",
    jobs=200,
    play=play,
    # Long enough to be running when the worker stops, and over when it goes on. A job that kills
    # its worker would take the frozen one away.
    mix=Mix(durations=(Duration(1.0, 10.0, 20.0),), kill_worker=0.0),
)
