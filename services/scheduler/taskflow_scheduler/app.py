"""The scheduler: whatever happens because time has passed, done by the one that leads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.db.startup import is_ready_before
from taskflow.object_store import ObjectStore
from taskflow.relay import Relay
from taskflow.settings import SchedulerSettings
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.leadership import Leadership
from taskflow_scheduler.loops.counts import FoldCounts, MendCounts
from taskflow_scheduler.loops.dispatch import DispatchDue
from taskflow_scheduler.loops.erasure import EraseObjects
from taskflow_scheduler.loops.expiry import ExpireJobs
from taskflow_scheduler.loops.lanes import KeepLanes
from taskflow_scheduler.loops.lost_pointers import RepublishLost
from taskflow_scheduler.loops.release import ReleaseHeld
from taskflow_scheduler.loops.rescue import RescueOrphans
from taskflow_scheduler.loops.retention import PruneRecords
from taskflow_scheduler.loops.topology import KeepTopology
from taskflow_scheduler.loops.unclaimed import RepeatPointers
from taskflow_scheduler.loops.unrouted import ReturnUnrouted
from taskflow_scheduler.periodic import PeriodicLoop

STOP_SECONDS = 10.0
"""How long a round may go on, and the relay may send, once the process is to stop."""

RETENTION_EVERY_SECONDS = 60.0
TOPOLOGY_EVERY_SECONDS = 10.0
FOLD_EVERY_SECONDS = 2.0
MEND_EVERY_SECONDS = 600.0
RESCUES_PER_HEARTBEAT = 10
"""How often leases are looked at: what an orphan waits for beyond the end of its lease."""
LOOKS_PER_EMPTINESS = 15
"""How often a lane is looked at within the time after which it counts as empty for long."""

log = structlog.get_logger(__name__)


async def run(settings: SchedulerSettings, stopping: asyncio.Event) -> None:
    """Act until `stopping` is set.

    Raises:
        SchemaBehind: the database lacks migrations.
        ConfigurationError: the database refuses us or doesn't answer.
    """
    async with contextlib.AsyncExitStack() as resources:
        database = await resources.enter_async_context(_open_database(settings))
        if not await is_ready_before(stopping.wait, database):
            return
        amqp_url = settings.amqp_url.get_secret_value()
        # An alarm in the broker blocks connections that publish, and only those.
        publishing = await resources.enter_async_context(_broker(amqp_url, "publish"))
        looking = await resources.enter_async_context(_broker(amqp_url, "look"))
        publisher = Publisher(publishing, timeout_seconds=settings.amqp_publish_timeout_seconds)
        relay = await resources.enter_async_context(_relay(publisher, database))
        object_store = await resources.enter_async_context(_object_store(settings))
        leadership = await resources.enter_async_context(_leadership(settings, publishing))
        loops = _loops(
            settings,
            database=database,
            broker=looking,
            publisher=publisher,
            relay=relay,
            object_store=object_store,
            leadership=leadership,
        )
        await resources.enter_async_context(_running(loops))
        log.info("scheduler_started")
        await stopping.wait()
        log.info("scheduler_stopping")
        # Before the rounds under way have ended: they take only what no other scheduler holds.
        await leadership.stop()


def _loops(
    settings: SchedulerSettings,
    *,
    database: Database,
    broker: Broker,
    publisher: Publisher,
    relay: Relay,
    object_store: ObjectStore,
    leadership: Leadership,
) -> list[PeriodicLoop]:
    tick = settings.scheduler_tick_seconds
    lost_after = settings.pointer_lost_after_seconds
    look_every = lost_after / LOOKS_PER_EMPTINESS
    rescue_every = min(tick, settings.heartbeat_seconds / RESCUES_PER_HEARTBEAT)
    dispatch = DispatchDue(database, relay)
    unrouted = ReturnUnrouted(database, broker, publisher)
    lost_pointers = RepublishLost(
        database,
        relay,
        LaneDepths(broker),
        lost_after_seconds=lost_after,
        longest_gap_seconds=5 * look_every,
    )
    unclaimed = RepeatPointers(database, relay, LaneDepths(broker))
    rescue = RescueOrphans(database, relay, unclaimed, heartbeat_seconds=settings.heartbeat_seconds)
    lanes = KeepLanes(database, broker, lost_after_seconds=settings.worker_lost_after_seconds)
    release = ReleaseHeld(database, relay, running_quota=settings.quota_running_jobs)
    expiry = ExpireJobs(database)
    erasure = EraseObjects(database, object_store)
    retention = PruneRecords(database, settings)
    rounds = (
        ("dispatch", dispatch.round, tick),
        ("release", release.round, tick),
        ("unrouted", unrouted.round, tick),
        ("topology", KeepTopology(broker).round, TOPOLOGY_EVERY_SECONDS),
        ("lanes", lanes.round, tick),
        ("lost_pointers", lost_pointers.round, look_every),
        ("unclaimed", unclaimed.round, rescue_every),
        ("expiry", expiry.round, tick),
        ("erasure", erasure.round, tick),
        ("retention", retention.round, RETENTION_EVERY_SECONDS),
        ("fold_counts", FoldCounts(database).round, FOLD_EVERY_SECONDS),
        ("mend_counts", MendCounts(database).round, MEND_EVERY_SECONDS),
    )

    def leads() -> bool:
        return leadership.leads

    return [
        PeriodicLoop(
            "rescue", rescue.round, every_seconds=rescue_every, leads=leads, watch=rescue.watch
        ),
        *(
            PeriodicLoop(name, round_, every_seconds=every, leads=leads)
            for name, round_, every in rounds
        ),
    ]


@contextlib.asynccontextmanager
async def _open_database(settings: SchedulerSettings) -> AsyncIterator[Database]:
    database = await open_database(
        settings.database_url.get_secret_value(),
        role=DatabaseRole.SCHEDULER,
        application_name="taskflow-scheduler",
        pool_size=settings.database_pool_size,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        acquire_timeout_seconds=settings.database_acquire_timeout_seconds,
    )
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def _object_store(settings: SchedulerSettings) -> AsyncIterator[ObjectStore]:
    object_store = ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        timeout_seconds=settings.s3_timeout_seconds,
        ca_file=settings.tls_ca_file,
        max_connections=2,
    )
    try:
        yield object_store
    finally:
        await object_store.close()


@contextlib.asynccontextmanager
async def _broker(url: str, purpose: str) -> AsyncIterator[Broker]:
    broker = Broker(url, name=f"taskflow-scheduler-{purpose}")
    broker.start()
    try:
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def _relay(publisher: Publisher, database: Database) -> AsyncIterator[Relay]:
    relay = Relay(publisher, database)
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop(STOP_SECONDS)


@contextlib.asynccontextmanager
async def _leadership(settings: SchedulerSettings, publishing: Broker) -> AsyncIterator[Leadership]:
    leadership = Leadership(
        settings.database_url.get_secret_value(), is_able=lambda: publishing.connected
    )
    leadership.start()
    try:
        yield leadership
    finally:
        await leadership.stop()


@contextlib.asynccontextmanager
async def _running(loops: list[PeriodicLoop]) -> AsyncIterator[None]:
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        await asyncio.gather(*(loop.stop(STOP_SECONDS) for loop in loops))
