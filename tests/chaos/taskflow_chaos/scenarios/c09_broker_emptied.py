"""C9: what lies in the broker is gone: all queues purged, then the broker reset to empty.

The reset is the operator's: `rabbitmqctl stop_app`, `reset`, `start_app`. The node then reads its
user and virtual host from its definitions file, as a broker does that is set up anew; exchanges,
queues and bindings are for TaskFlow to make again.

The load that fills the broker is more than the slots bear; that which goes on after a wipe is not.
A pointer counts as lost once one that is 45 s newer has been taken from its lane, or the lane was
seen empty for as long. While new jobs wait there, their wait is added: the figure would be that of
a backlog.

No job kills its worker here, unlike in other scenarios: a pointer that dies with the worker that
was about to publish it is sent again as well, and nothing would tell it from a needless one.
"""

import asyncio
import time

import asyncpg

from taskflow.jobs.states import DISPATCHABLE
from taskflow_chaos import faults
from taskflow_chaos.cluster import Layout
from taskflow_chaos.rabbitmqctl import rabbitmqctl
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage, pace
from taskflow_chaos.workload import Mix

FILLING_PER_SECOND = 120.0
"""More than forty slots bear, so that messages lie in the broker when it is emptied."""
SLOTS_EACH = 10
ACCEPTED_SHARE = 0.6
"""Of each part, before the broker is emptied."""
FOUND_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.2
_LOST_WITH_QUEUES = ("jobs.dead", "jobs.unrouted")
"""Queues whose messages are no pointers on their way to a lane."""

_WAITING_SINCE = """
SELECT count(*) FROM jobs
WHERE state::text = ANY($1) AND pointer_at < to_timestamp($2) AND (run_at <= now() OR NOT $3)
"""


async def play(stage: Stage) -> None:
    """Empty it twice, each time under a load that goes on meanwhile."""
    wipes = {"purge": _purge, "reset": _reset}
    needless = 0
    for (name, wipe), part in zip(wipes.items(), stage.parts(len(wipes)), strict=True):
        before = _republished(stage)
        filling = int(ACCEPTED_SHARE * len(part))
        async with stage.submissions(FILLING_PER_SECOND, plan=part[:filling]):
            pass
        rest = part[filling:]
        async with stage.submissions(pace(len(rest), FOUND_SECONDS), plan=rest):
            missing = await wipe(stage)
            stage.fault(f"broker {name}")
            await _require_found(stage, time.time())
        await stage.all_ended()
        republished = _republished(stage) - before
        stage.require(missing > 0, f"nothing lay in the broker before the {name}")
        stage.require(
            republished <= missing,
            f"{republished} pointers were sent again after the {name}, which took only {missing}",
        )
        stage.figures[f"missing_after_{name}"] = missing
        stage.figures[f"republished_after_{name}"] = republished
        needless += max(0, republished - missing)
    stage.needless_republished = needless


async def _purge(stage: Stage) -> int:
    """Purge every queue; how many pointers that took."""
    purged = await faults.purge_queues(stage.cluster.rabbitmq)
    return sum(count for name, count in purged.items() if name not in _LOST_WITH_QUEUES)


async def _reset(stage: Stage) -> int:
    """Reset the broker to empty; how many jobs wait with a pointer that this took."""
    broker = stage.cluster.rabbitmq
    await rabbitmqctl(broker, "stop_app")
    stopped_at = time.time()
    await rabbitmqctl(broker, "reset")
    # Only now, when whoever had a message in flight has noted that it did not arrive.
    connection = await stage.cluster.connect()
    try:
        missing = await _waiting_since(connection, stopped_at, due=False)
    finally:
        await connection.close()
    await rabbitmqctl(broker, "start_app")
    return missing


async def _require_found(stage: Stage, wiped_at: float) -> None:
    """Wait until no due job waits for a pointer that is older than the end of the wipe."""
    connection = await stage.cluster.connect()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while left := await _waiting_since(connection, wiped_at, due=True):
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        stage.require(False, f"{left} jobs wait for pointers that are gone")
        return
    finally:
        await connection.close()
    stage.recovered(
        [time.time() - wiped_at],
        "from when the broker serves again, emptied, until no due job waits for a lost pointer",
        limit=FOUND_SECONDS,
    )


async def _waiting_since(connection: asyncpg.Connection, moment: float, *, due: bool) -> int:
    """How many jobs wait with a pointer from before a moment; of those that are due, if so."""
    states = sorted(DISPATCHABLE)
    return int(await connection.fetchval(_WAITING_SINCE, states, moment, due))


def _republished(stage: Stage) -> int:
    return stage.cluster.logs.sum("lost_pointers_republished", "count")


SCENARIO = Scenario(
    id="C9",
    title="Broker emptied",
    fault="all queues are purged; then the broker is reset to empty",
    asserts="all complete, no hand needed; what was lost, and no more, is sent again within 60 s",
    jobs=5_000,
    mix=Mix(kill_worker=0.0),
    layout=Layout(settings={"consumer": {"concurrency": SLOTS_EACH}}),
    play=play,
)
