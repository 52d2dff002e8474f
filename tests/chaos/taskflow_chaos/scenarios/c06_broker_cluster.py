"""C6: a cluster of three brokers loses its leader for a while, and is then restarted node by node.

The leader's node is cut off twice, without a word: connections stay open and silent (see
`rabbitmq_cluster`). First from its peers and its clients, then from its peers alone, so that it
goes on to answer clients for which it can do nothing. The services know one address, a load
balancer's. The brokers' `net_ticktime` is 12 s and not RabbitMQ's default of 60: see
`rabbitmq_cluster.NET_TICK_SECONDS`.
"""

import asyncio
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

from taskflow.broker.topology import lane_queue
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow_chaos.cluster import Layout
from taskflow_chaos.rabbitmq_cluster import NODES, BrokerCluster, Node, three_nodes
from taskflow_chaos.rabbitmqctl import RabbitmqctlFailed, rabbitmqctl
from taskflow_chaos.result import percentile
from taskflow_chaos.scenario import Scenario
from taskflow_chaos.stage import Stage, pace

BEFORE_CUT_SECONDS = 5.0
CUT_SECONDS = 30.0
LOAD_SECONDS = 180.0
"""How long jobs come in at least: until the last node is back, if there is time for it."""
STALL_SECONDS = 20.0
WHOLE_SECONDS = 60.0
_POLL_SECONDS = 0.5

LANE = lane_queue(Lane("default", Priority.MEDIUM))
"""Where the suite's jobs go, as they name no queue and no priority."""


async def play(stage: Stage) -> None:
    """Cut off the node that leads the lane, then restart all of them, under one load."""
    cluster = stage.cluster.rabbitmq
    assert isinstance(cluster, BrokerCluster)
    async with stage.submissions(per_second=pace(stage.jobs, LOAD_SECONDS)):
        await asyncio.sleep(BEFORE_CUT_SECONDS)
        began = time.time()
        for from_clients in (True, False):
            await _cut_leader_off(stage, cluster, from_clients=from_clients)
        for node in cluster.nodes:
            await _wait_whole(cluster)
            await node.end(signal.SIGTERM)
            stage.fault("node restarted")
            await node.start()
        await _wait_whole(cluster)
        ended = time.time()
    await stage.all_ended()
    stage.require_no_refusal()
    await _require_no_stall(stage, began, ended)


async def _cut_leader_off(stage: Stage, cluster: BrokerCluster, *, from_clients: bool) -> None:
    """Cut off the node that leads the lane for its half minute, and see the cluster whole again."""
    leader = await _leader(cluster)
    leader.cut_off(from_clients=from_clients)
    stage.fault("leader cut off" if from_clients else "leader cut off from its peers alone")
    await asyncio.sleep(CUT_SECONDS)
    leader.plug_in()
    await _wait_whole(cluster)
    stage.require(await _leader(cluster) is not leader, "no other node took the lead")


async def _require_no_stall(stage: Stage, began: float, ended: float) -> None:
    """Each API for itself: while one of them stalls, the jobs of the other would hide it."""
    claims = await stage.first_claims()
    dispatched: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in stage.client.accepted:
        # A job that was cancelled in time was never taken.
        if began <= each.at < ended and each.job_id in claims:
            dispatched[each.api].append((each.at, claims[each.job_id]))
    stage.recovered(
        [stall for jobs in dispatched.values() for stall in stalls(jobs)],
        "in which no job was taken of those that one API had accepted, though some waited",
        limit=STALL_SECONDS,
    )
    waits = [claimed - accepted for jobs in dispatched.values() for accepted, claimed in jobs]
    stage.figures["wait_for_a_worker_p50_seconds"] = round(percentile(waits, 0.5) or 0.0, 1)
    stage.figures["wait_for_a_worker_p99_seconds"] = round(percentile(waits, 0.99) or 0.0, 1)
    stage.figures["longest_wait_for_a_worker_seconds"] = round(max(waits), 1)
    last = max(each.at for each in stage.client.accepted)
    stage.figures["load_until_the_end_of_the_faults"] = str(last >= ended)


def stalls(jobs: Sequence[tuple[float, float]]) -> list[float]:
    """For each job of (when it was accepted, when it was taken): how long none was taken before it
    though some waited."""
    by_claim = sorted(jobs, key=itemgetter(1))
    # Of the jobs that are taken from each one on: when the first of them was accepted.
    waits_since = list(accumulate((accepted for accepted, _ in reversed(by_claim)), min))
    found: list[float] = []
    last = -math.inf
    for (_, claimed), since in zip(by_claim, reversed(waits_since), strict=True):
        found.append(claimed - max(last, since))
        last = claimed
    return found


async def _leader(cluster: BrokerCluster) -> Node:
    """The node that leads the lane."""
    return cluster.node((await _queues(cluster.nodes[0]))[LANE]["leader"])


async def _wait_whole(cluster: BrokerCluster) -> None:
    """Wait until every queue has a member on each node that is in step: then one may stop."""
    async with asyncio.timeout(WHOLE_SECONDS):
        while not await _is_whole(cluster):
            await asyncio.sleep(_POLL_SECONDS)


async def _is_whole(cluster: BrokerCluster) -> bool:
    try:
        queues = await _queues(cluster.nodes[0])
    except RabbitmqctlFailed:  # nodes that meet again do not answer for a moment
        return False
    return all(len(queue["online"]) == len(queue["members"]) == NODES for queue in queues.values())


async def _queues(node: Node) -> Mapping[str, Mapping[str, Any]]:
    """Each queue's leader, members and those of them that are online."""
    wanted = ("name", "leader", "members", "online")
    answer = await rabbitmqctl(node, "list_queues", "--formatter", "json", *wanted)
    return {queue["name"]: queue for queue in json.loads(answer)}


SCENARIO = Scenario(
    id="C6",
    title="Broker cluster",
    fault="of three brokers the leader is cut off for 30 s, twice; then each is restarted in turn",
    asserts="every submission is 202; the dispatch of neither API stalls for more than 20 s",
    jobs=10_000,
    layout=Layout(servers=three_nodes),
    play=play,
)
