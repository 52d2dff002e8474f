"""C1: consumers die without a word, one every two seconds."""

from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import PER_SECOND, Stage

KILL_SECONDS = 2.0
LONGEST_SECONDS = 120.0
"""For longer than this two cores don't keep up with the work that is lost and done again."""
RUNS_AGAIN_SECONDS = 20.0


async def play(stage: Stage) -> None:
    """Kill one at a time for two minutes or as long as jobs come in, and at least ten times."""
    load_seconds = min(LONGEST_SECONDS, stage.jobs / PER_SECOND)
    kills = max(10, round(load_seconds / KILL_SECONDS))
    killed: set[int] = set()
    async with stage.submissions():
        async for _ in stage.ticks(KILL_SECONDS, kills):
            alive = [each for each in stage.cluster.consumers if each.is_running]
            if alive and (victim := stage.random.choice(alive)).kill():
                killed.add(victim.pid)
                stage.fault("consumer kill -9")
    await stage.all_ended()
    await stage.require_nothing_taken()
    orphans = await stage.orphans()
    # Some jobs kill their worker themselves; those alone would prove nothing.
    stage.require(
        any(each.worker_pid in killed for each in orphans), "no killed consumer was running a job"
    )
    # A job that was cancelled meanwhile does not run again.
    stage.require(
        all(each.seconds is not None or each.state == "cancelled" for each in orphans),
        "an orphan never ran again",
    )
    stage.recovered(
        [each.seconds for each in orphans if each.seconds is not None],
        "from a worker's death to the start of its job's next attempt",
        limit=RUNS_AGAIN_SECONDS,
    )


SCENARIO = Scenario(
    id="C1",
    title="Consumers killed",
    fault="a consumer is killed (kill -9) every 2 s",
    asserts="an orphan runs again within 20 s; nothing is taken from a living worker",
    jobs=5_000,
    play=play,
)
