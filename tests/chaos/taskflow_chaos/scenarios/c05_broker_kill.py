"""C5: the broker dies without a word, five times."""

import asyncio

from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage
from taskflow_testing.own_servers import Outage

KILLS = 5
BEFORE_KILL_SECONDS = 1.0
DISPATCH_SECONDS = 30.0
PATIENCE_SECONDS = 90.0


async def play(stage: Stage) -> None:
    """Kill it under load and start it at once, as its supervisor would; again when all
    that waited for it is taken: else that would have two deaths to wait for."""
    broker = stage.cluster.rabbitmq
    for part in stage.parts(KILLS):
        async with stage.submissions(plan=part):
            await asyncio.sleep(BEFORE_KILL_SECONDS)
            await broker.kill()
            stage.fault("broker kill -9")
            await broker.start()
            outage = broker.outages[-1]
            runs = await stage.start_after(outage.began, PATIENCE_SECONDS)
            stage.require(runs is not None, f"no job ran within {PATIENCE_SECONDS:.0f} s of a kill")
        taken = await stage.all_taken(outage.ended or outage.began, PATIENCE_SECONDS)
        stage.require(taken, f"not every job that waited was taken within {PATIENCE_SECONDS:.0f} s")
    await stage.all_ended()
    stage.figures["longest_outage_seconds"] = round(max(map(_seconds, broker.outages)), 1)
    for outage in broker.outages:
        accepted = [each for each in stage.client.accepted if outage.covers(each.at)]
        stage.require(bool(accepted), "nothing was accepted while the broker was away")
        stage.recovered(
            await stage.waits(since=outage.began, accepted_before=outage.ended or outage.began),
            "from the broker's death to the claim of each job that waited then or came while it"
            " was away",
            limit=DISPATCH_SECONDS,
        )
    stage.require_no_refusal()


def _seconds(outage: Outage) -> float:
    return (outage.ended or outage.began) - outage.began


SCENARIO = Scenario(
    id="C5",
    title="Broker killed",
    fault="RabbitMQ is killed (kill -9) five times and started again",
    asserts="submissions go on; dispatch within 30 s of the kill",
    jobs=10_000,
    play=play,
)
