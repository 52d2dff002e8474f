"""The lanes of workers, declared by the scheduler for those who may not."""

import pytest
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.db.pool import Database
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.worker_state import WorkerState
from taskflow.jobs.workers import WorkerRegistration, register_worker, set_worker_state
from taskflow_scheduler.loops import lanes as lanes_loop
from taskflow_scheduler.loops.lanes import KeepLanes
from taskflow_testing.jobs import Jobs

pytestmark = pytest.mark.broker


@pytest.fixture
def keep(database: Database, broker: Broker) -> KeepLanes:
    return KeepLanes(database, broker, lost_after_seconds=30.0)


async def register(jobs: Jobs, lane: Lane) -> WorkerRegistration:
    worker = WorkerRegistration(uuid7(), "host", 1, "1.0", [lane.queue], ["echo"], 10)
    await register_worker(jobs.connection, worker)
    return worker


async def are_there(broker: Broker, lane: Lane) -> bool:
    """Whether all lanes of a queue are."""
    found = []
    for priority in Priority:
        async with broker.short_channel() as channel:
            try:
                await channel.get_queue(topology.lane_queue(Lane(lane.queue, priority)))
            except Exception:  # noqa: BLE001 - whatever it is, it isn't there
                found.append(False)
            else:
                found.append(True)
    assert len(set(found)) == 1, found
    return found[0]


async def test_the_lanes_of_a_live_worker_are_declared(
    jobs: Jobs, keep: KeepLanes, broker: Broker, lane: Lane
) -> None:
    await keep.round()
    assert not await are_there(broker, lane)
    await register(jobs, lane)
    assert not await keep.round()
    assert await are_there(broker, lane)


async def test_those_of_the_dead_are_not(
    jobs: Jobs, keep: KeepLanes, broker: Broker, lane: Lane
) -> None:
    worker = await register(jobs, lane)
    await set_worker_state(jobs.connection, worker.id, WorkerState.STOPPED)
    await keep.round()
    assert not await are_there(broker, lane)
    await jobs.connection.execute(
        "UPDATE workers SET state = 'running', heartbeat_at = now() - interval '1 hour'"
    )
    await keep.round()
    assert not await are_there(broker, lane)


async def test_a_lane_that_was_deleted_comes_back(
    jobs: Jobs, keep: KeepLanes, broker: Broker, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(jobs, lane)
    await keep.round()
    async with broker.short_channel() as channel:
        for priority in Priority:
            await channel.queue_delete(topology.lane_queue(Lane(lane.queue, priority)))
    await keep.round()
    assert not await are_there(broker, lane)
    monkeypatch.setattr(lanes_loop, "AGAIN_AFTER_SECONDS", 0.0)
    await keep.round()
    assert await are_there(broker, lane)


async def test_a_queue_that_can_not_be_declared_holds_up_no_other(
    jobs: Jobs, keep: KeepLanes, broker: Broker, lane: Lane
) -> None:
    async with broker.short_channel() as channel:
        await channel.declare_queue(topology.lane_queue(lane), durable=True)
    await register(jobs, lane)
    await keep.round()
    assert await are_there(broker, lane)
