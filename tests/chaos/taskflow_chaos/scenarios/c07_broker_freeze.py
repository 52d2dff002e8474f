"""C7: the broker freezes, its connections open and silent."""

import asyncio

from taskflow_chaos import faults
from taskflow_chaos.result import percentile
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage, pace

BEFORE_FREEZE_SECONDS = 5.0
FREEZE_SECONDS = 60.0
AFTER_FREEZE_SECONDS = 10.0
LOAD_SECONDS = BEFORE_FREEZE_SECONDS + FREEZE_SECONDS + AFTER_FREEZE_SECONDS
SUBMIT_P99_MS = 500.0
BACKLOG_GONE_SECONDS = 60.0


async def play(stage: Stage) -> None:
    """Freeze it once; jobs come in before, meanwhile and afterwards, however few they are."""
    broker = stage.cluster.rabbitmq
    async with stage.submissions(per_second=pace(stage.jobs, LOAD_SECONDS)):
        await asyncio.sleep(BEFORE_FREEZE_SECONDS)
        stage.fault("broker SIGSTOP")
        await faults.freeze_server(broker, FREEZE_SECONDS)
    await stage.all_ended()
    outage = broker.outages[-1]
    accepted = stage.client.accepted
    stage.require(
        any(outage.covers(each.at) for each in accepted),
        "nothing was accepted while the broker was frozen",
    )
    # By their beginning: one that hangs until the broker is back belongs to them.
    frozen = [each for each in accepted if outage.covers(each.at - each.waited_seconds)]
    p99 = percentile([each.waited_seconds * 1000 for each in frozen], 0.99) or 0.0
    stage.figures["submit_p99_ms_while_frozen"] = round(p99, 1)
    stage.require(p99 < SUBMIT_P99_MS, f"submit p99 was {p99:.0f} ms while the broker was frozen")
    stage.require_no_refusal()
    back = outage.ended or outage.began
    stage.recovered(
        await stage.waits(since=back, accepted_before=back),
        "from the broker's return to the claim of each job that waited for it",
        limit=BACKLOG_GONE_SECONDS,
    )


SCENARIO = Scenario(
    id="C7",
    title="Broker frozen",
    fault="RabbitMQ is frozen (SIGSTOP) for 60 s",
    asserts="submit p99 below 500 ms meanwhile; all that waited is taken within 60 s of its return",
    jobs=3_000,
    play=play,
)
