"""C3: the APIs die without a word, one every second."""

from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage

KILL_SECONDS = 1.0
LEAST_KILLS = 10
ACCEPTS_AGAIN_SECONDS = 10.0


async def play(stage: Stage) -> None:
    """Every second kill one that serves, for as long as jobs come in; then let all of them run."""
    killed_at: list[float] = []
    served: set[int] = set()
    async with stage.submissions() as submitting:
        async for _ in stage.ticks(KILL_SECONDS, stage.jobs):
            if submitting.done() and len(killed_at) >= LEAST_KILLS:
                break
            serving = [each for each in stage.cluster.apis if await stage.cluster.answers(each)]
            # One that has served for a second: else the two would do nothing but start.
            victim = next((each for each in serving if each.pid in served), None)
            served = {each.pid for each in serving}
            if victim is not None:
                life = victim.lives[-1]
                victim.kill()
                await victim.wait_end(life)
                killed_at.append(life.ended or 0.0)
                stage.fault("API kill -9")
    await stage.all_ended()
    await _require_one_row_a_key(stage)
    accepted = sorted(each.at for each in stage.client.accepted)
    # After the last job's first try there are only repeats, and no 202 may mean that none is due.
    load_ended = max(each.at - each.waited_seconds for each in stage.client.accepted)
    under_load = [moment for moment in killed_at if moment < load_ended]
    stage.require(
        stage.client.statuses["no connection"] > 0, "no submission met an API that was gone"
    )
    stage.recovered(
        [next(at for at in accepted if at > moment) - moment for moment in under_load],
        "from the death of an API to the next 202 of any",
        limit=ACCEPTS_AGAIN_SECONDS,
    )


async def _require_one_row_a_key(stage: Stage) -> None:
    connection = await stage.cluster.connect()
    try:
        rows = await connection.fetchval("SELECT count(*) FROM jobs")
    finally:
        await connection.close()
    keys = len({each.key for each in stage.client.accepted})
    stage.require(rows == keys == stage.jobs, f"{rows} rows, {keys} keys, {stage.jobs} jobs")


SCENARIO = Scenario(
    id="C3",
    title="APIs killed",
    fault="every second an API that serves is killed (kill -9)",
    asserts="rows equal distinct keys; the next 202 within 10 s",
    jobs=5_000,
    play=play,
)
