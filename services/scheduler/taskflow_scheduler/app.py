"""The scheduler: whatever happens because time has passed, done by the one that leads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database, open_database
from taskflow.db.startup import is_ready_before
from taskflow.relay import Relay
from taskflow.settings import SchedulerSettings
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.leadership import Leadership
from taskflow_scheduler.loops.dispatch import DispatchDue
from taskflow_scheduler.loops.expiry import ExpireJobs
from taskflow_scheduler.loops.lost_pointers import RepublishLost
from taskflow_scheduler.loops.rescue import RescueOrphans
from taskflow_scheduler.loops.retention import PruneRecords
from taskflow_scheduler.loops.unrouted import ReturnUnrouted
from taskflow_scheduler.periodic import PeriodicLoop

STOP_SECONDS = 10.0
"""How long a round may go on, and the relay may send, once the process is to stop."""

RETENTION_EVERY_SECONDS = 60.0
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
        leadership = await resources.enter_async_context(_leadership(settings))
        loops = _loops(
            settings,
            database=database,
            broker=looking,
            publisher=publisher,
            relay=relay,
            leadership=leadership,
        )
        await resources.enter_async_context(_running(loops))
        log.info("scheduler_started")
        await stopping.wait()
        log.info("scheduler_stopping")


def _loops(
    settings: SchedulerSettings,
    *,
    database: Database,
    broker: Broker,
    publisher: Publisher,
    relay: Relay,
    leadership: Leadership,
) -> list[PeriodicLoop]:
    tick = settings.scheduler_tick_seconds
    lost_after = settings.pointer_lost_after_seconds
    look_every = lost_after / LOOKS_PER_EMPTINESS
    dispatch = DispatchDue(database, relay)
    unrouted = ReturnUnrouted(database, broker, publisher)
    lost_pointers = RepublishLost(
        database,
        relay,
        LaneDepths(broker),
        lost_after_seconds=lost_after,
        longest_gap_seconds=5 * look_every,
    )
    rescue = RescueOrphans(database, relay, heartbeat_seconds=settings.heartbeat_seconds)
    expiry = ExpireJobs(database)
    retention = PruneRecords(database)
    rounds = (
        ("dispatch", dispatch.round, tick),
        ("unrouted", unrouted.round, tick),
        ("lost_pointers", lost_pointers.round, look_every),
        ("rescue", rescue.round, min(tick, settings.heartbeat_seconds / 3)),
        ("expiry", expiry.round, tick),
        ("retention", retention.round, RETENTION_EVERY_SECONDS),
    )
    return [
        PeriodicLoop(name, round_, every_seconds=every, leads=lambda: leadership.leads)
        for name, round_, every in rounds
    ]


@contextlib.asynccontextmanager
async def _open_database(settings: SchedulerSettings) -> AsyncIterator[Database]:
    database = await open_database(
        settings.database_url.get_secret_value(),
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
async def _leadership(settings: SchedulerSettings) -> AsyncIterator[Leadership]:
    leadership = Leadership(settings.database_url.get_secret_value())
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
