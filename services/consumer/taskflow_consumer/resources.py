"""A worker's resources: each is opened and laid down in one place, within the last words' time."""

import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import structlog

from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.object_store import ObjectStore
from taskflow.relay import Relay
from taskflow.settings import ConsumerSettings
from taskflow_consumer.heartbeat import Heartbeat
from taskflow_consumer.last_words import LastWords
from taskflow_consumer.log_shipper import LogShipper
from taskflow_consumer.log_spool import LogSpool
from taskflow_consumer.notes import ProgressWriter
from taskflow_consumer.recorder import Recorder

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def database(settings: ConsumerSettings, last_words: LastWords) -> AsyncIterator[Database]:
    """The pool for claims and outcomes."""
    database = await open_database(
        settings.database_url.get_secret_value(),
        role=DatabaseRole.CONSUMER,
        application_name="taskflow-consumer",
        pool_size=settings.database_pool_size,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        acquire_timeout_seconds=settings.database_acquire_timeout_seconds,
        steady_plans=True,
    )
    try:
        yield database
    finally:
        await last_words.bound(database.close())


@contextlib.asynccontextmanager
async def broker(url: str, purpose: str, last_words: LastWords) -> AsyncIterator[Broker]:
    """A connection for one purpose."""
    broker = Broker(url, name=f"taskflow-consumer-{purpose}")
    broker.start()
    try:
        yield broker
    finally:
        if not await last_words.bound(broker.close()):
            log.warning("broker_left_open", purpose=purpose)


@contextlib.asynccontextmanager
async def relay(
    publisher: Publisher, database: Database, last_words: LastWords
) -> AsyncIterator[Relay]:
    """What sends retries on their way."""
    relay = Relay(publisher, database)
    relay.start()
    try:
        yield relay
    finally:
        # The first half to send, the second to write down what could not be sent.
        if not await last_words.bound(relay.stop(last_words.left() / 2)):
            log.warning("relay_left_behind")


@contextlib.asynccontextmanager
async def object_store(settings: ConsumerSettings) -> AsyncIterator[ObjectStore]:
    """Where logs, results and artifacts go."""
    store = ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        timeout_seconds=settings.s3_timeout_seconds,
        ca_file=settings.tls_ca_file,
    )
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def log_shipper(
    store: ObjectStore,
    database: Database,
    settings: ConsumerSettings,
    worker_id: UUID,
    last_words: LastWords,
) -> AsyncIterator[LogShipper]:
    """What stores the lines of jobs."""
    shipper = LogShipper(
        store,
        database,
        worker_id,
        flush_seconds=settings.log_flush_seconds,
        attempt_max_bytes=settings.log_attempt_max_bytes,
        buffer_max_bytes=settings.log_buffer_max_bytes,
        spool=_log_spool(settings, worker_id),
    )
    shipper.start()
    try:
        yield shipper
    finally:
        await last_words.bound(shipper.finish())
        await shipper.drain(0)


def _log_spool(settings: ConsumerSettings, worker_id: UUID) -> LogSpool | None:
    if not settings.log_spool_max_bytes:
        return None
    return LogSpool(settings.log_spool_dir, worker_id, settings.log_spool_max_bytes)


@contextlib.asynccontextmanager
async def recorder(
    database: Database, relay: Relay, last_words: LastWords, *, running_quota: int
) -> AsyncIterator[Recorder]:
    """What writes outcomes down; leaving it waits for the last ones."""
    recorder = Recorder(database, relay, running_quota=running_quota)
    try:
        yield recorder
    finally:
        if not await last_words.bound(recorder.close()):
            # Their leases run out, and the scheduler gives the jobs to others.
            log.error("outcomes_not_recorded")


@contextlib.asynccontextmanager
async def progress(database: Database) -> AsyncIterator[ProgressWriter]:
    """What writes progress down."""
    writer = ProgressWriter(database)
    try:
        yield writer
    finally:
        await writer.stop()


@contextlib.asynccontextmanager
async def beating(heartbeat: Heartbeat) -> AsyncIterator[None]:
    """The sibling process that keeps the leases."""
    await heartbeat.start()
    try:
        yield
    finally:
        await heartbeat.stop()
