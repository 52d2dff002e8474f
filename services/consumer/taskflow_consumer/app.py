"""The worker: its resources, born here in their order and laid down in the opposite one."""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from taskflow.artifacts import ArtifactStore
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import TRANSIENT_ERRORS, Database
from taskflow.db.startup import is_ready_before
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.worker_state import WorkerState
from taskflow.jobs.workers import (
    JobTypeRegistration,
    WorkerRegistration,
    register_job_types,
    register_worker,
    set_worker_state,
)
from taskflow.sdk.registry import Registry
from taskflow.settings import ConsumerSettings
from taskflow_consumer import resources
from taskflow_consumer.executor import Executor
from taskflow_consumer.heartbeat import Heartbeat
from taskflow_consumer.last_words import AT_ONCE_SECONDS, LastWords
from taskflow_consumer.middleware.stop import StopReason
from taskflow_consumer.notes import CheckpointWriter
from taskflow_consumer.renewal import Renewal
from taskflow_consumer.shutdown import Shutdown
from taskflow_consumer.subscriber import Claimer, Subscriber

RELEASE_SECONDS = 6.0
"""How much of the last words' time jobs have that are handed back; outcomes go on beyond it."""

_DATABASE_AWAY: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, ServiceUnavailable)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is and what it takes on; the id is new at every start."""

    worker_id: UUID
    queues: tuple[str, ...]
    job_types: tuple[str, ...]

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that it takes from."""
        return [Lane(queue, priority) for queue in self.queues for priority in Priority]


async def run(settings: ConsumerSettings, registry: Registry, shutdown: Shutdown) -> None:
    """Take and run jobs until `shutdown`, then let them end within the grace, or hand them back.

    Raises:
        SchemaBehind: the database lacks migrations.
        ConfigurationError: the database refuses us or doesn't answer.
    """
    last_words = LastWords()
    async with contextlib.AsyncExitStack() as stack:
        # First in, last out: haste may be asked for until the end.
        await stack.enter_async_context(_hastened(shutdown, last_words))
        database = await stack.enter_async_context(resources.database(settings, last_words))
        if not await is_ready_before(shutdown.wait, database):
            return
        me = _identity(settings, registry)
        say = await stack.enter_async_context(
            _registered(database, settings, registry, me, last_words)
        )
        amqp_url = settings.amqp_url.get_secret_value()
        # An alarm in the broker blocks connections that publish, and only those.
        consuming = await stack.enter_async_context(
            resources.broker(amqp_url, "consume", last_words)
        )
        publishing = await stack.enter_async_context(
            resources.broker(amqp_url, "publish", last_words)
        )
        publisher = Publisher(publishing, timeout_seconds=settings.amqp_publish_timeout_seconds)
        relay = await stack.enter_async_context(resources.relay(publisher, database, last_words))
        object_store = await stack.enter_async_context(resources.object_store(settings))
        shipper = await stack.enter_async_context(
            resources.log_shipper(object_store, database, settings, me.worker_id, last_words)
        )
        # Bound late: the executor keeps its leases by the heartbeat.
        heartbeat = _heartbeat(settings, me, cancel=lambda *args: executor.cancel(*args))  # noqa: PLW0108
        # Laid down after the recorder: leases are kept until the last outcome is written.
        await stack.enter_async_context(resources.beating(heartbeat))
        executor = Executor(
            registry,
            recorder=await stack.enter_async_context(
                resources.recorder(database, relay, last_words)
            ),
            leases=heartbeat,
            log_shipper=shipper,
            artifacts=ArtifactStore(object_store),
            progress=await stack.enter_async_context(resources.progress(database)),
            checkpoints=CheckpointWriter(database),
            concurrency=settings.concurrency,
            result_inline_bytes=settings.result_inline_bytes,
            result_max_bytes=settings.result_max_bytes,
            log=structlog.get_logger("taskflow_consumer.executor"),
            random=random.Random(),  # noqa: S311 - jitter, not a secret
        )
        renewal = Renewal(
            executor,
            max_jobs=settings.max_jobs_per_process,
            max_memory_mib=settings.max_memory_mib,
        )
        await executor.warm_up()
        subscriber = Subscriber(
            broker=consuming,
            publisher=publisher,
            relay=relay,
            database=database,
            executor=executor,
            claimer=Claimer(me.worker_id, me.job_types, settings.lease_seconds),
            lanes=me.lanes,
            on_watermark=heartbeat.claimed,
        )
        log.info("consumer_started", worker_id=str(me.worker_id), queues=me.queues)
        try:
            await _work(subscriber, renewal, shutdown)
        finally:
            log.info("consumer_stopping", running=executor.concurrency - executor.free)
            # On the side: a database that is frozen must not hold up the end.
            draining = asyncio.create_task(say(WorkerState.DRAINING))
            grace_seconds = settings.shutdown_grace_seconds
            await _wind_down(subscriber, executor, shutdown, last_words, grace_seconds)
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
    log.info("consumer_stopped", worker_id=str(me.worker_id))


async def _work(subscriber: Subscriber, renewal: Renewal, shutdown: Shutdown) -> None:
    """Take jobs until the end is asked for; raise what breaks before."""
    subscriber.start()
    asked = asyncio.create_task(shutdown.wait())
    working = [
        asyncio.create_task(subscriber.wait()),
        asyncio.create_task(renewal.watch(shutdown)),
    ]
    done, _ = await asyncio.wait({asked, *working}, return_when=asyncio.FIRST_COMPLETED)
    for task in (asked, *working):
        task.cancel()
    for task in done:
        task.result()


async def _wind_down(
    subscriber: Subscriber,
    executor: Executor,
    shutdown: Shutdown,
    last_words: LastWords,
    grace_seconds: float,
) -> None:
    """Take nothing more; wait for what runs, until the grace is over or haste is asked for.

    A renewal is in no hurry: what it handed back at the end of a grace could meet renewal after
    renewal, and never end. Its grace begins with a signal.
    """
    stopped = asyncio.create_task(subscriber.stop())
    if shutdown.is_renewal:
        await _first_of(executor.wait_settled(), shutdown.wait_signal())
    hurry = asyncio.create_task(_drain_at_once(executor, shutdown))
    grace = asyncio.get_running_loop().call_later(grace_seconds, last_words.begin)
    try:
        await executor.drain(grace_seconds, RELEASE_SECONDS)
        last_words.begin()
        # A claim that was in flight brings jobs to be handed back.
        await last_words.bound(asyncio.wait({stopped}))
        await executor.drain(0, last_words.left())
    finally:
        grace.cancel()
        hurry.cancel()
        stopped.cancel()
        await asyncio.gather(hurry, stopped, return_exceptions=True)


async def _first_of(*waits: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain_at_once(executor: Executor, shutdown: Shutdown) -> None:
    await shutdown.wait_at_once()
    await executor.drain(0, AT_ONCE_SECONDS)


@contextlib.asynccontextmanager
async def _hastened(shutdown: Shutdown, last_words: LastWords) -> AsyncIterator[None]:
    """Bring the deadline of the last words forward when haste is asked for."""

    async def hasten() -> None:
        await shutdown.wait_at_once()
        log.warning("consumer_stops_at_once")
        last_words.begin(AT_ONCE_SECONDS)

    hastening = asyncio.create_task(hasten(), name="haste")
    try:
        yield
    finally:
        hastening.cancel()
        await asyncio.gather(hastening, return_exceptions=True)


def _heartbeat(
    settings: ConsumerSettings, me: Identity, *, cancel: Callable[[UUID, int, StopReason], object]
) -> Heartbeat:
    return Heartbeat(
        worker_id=me.worker_id,
        database_url=settings.database_url.get_secret_value(),
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        on_cancel_requested=lambda job_id, number: cancel(
            job_id, number, StopReason.CANCEL_REQUESTED
        ),
        on_lost=lambda job_id, number: cancel(job_id, number, StopReason.LEASE_LOST),
    )


def _identity(settings: ConsumerSettings, registry: Registry) -> Identity:
    """The queues of the settings, else those that the job types name, and `default`."""
    queues = settings.queues or tuple(
        sorted({"default", *(job_type.queue for job_type in registry)})
    )
    return Identity(uuid7(), queues, registry.names)


@contextlib.asynccontextmanager
async def _registered(
    database: Database,
    settings: ConsumerSettings,
    registry: Registry,
    me: Identity,
    last_words: LastWords,
) -> AsyncIterator[Callable[[WorkerState], Coroutine[Any, Any, None]]]:
    async with database.connection() as connection:
        await register_job_types(
            connection,
            [
                JobTypeRegistration(
                    name=job_type.name,
                    schema=job_type.payload_schema,
                    queue=job_type.queue,
                    max_attempts=job_type.max_attempts,
                    timeout_seconds=job_type.timeout_seconds,
                    description=job_type.description,
                )
                for job_type in registry
            ],
        )
        await register_worker(
            connection,
            WorkerRegistration(
                id=me.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("taskflow-consumer"),
                queues=me.queues,
                job_types=me.job_types,
                concurrency=settings.concurrency,
            ),
        )
    say = partial(_say, database, me)
    try:
        yield say
    finally:
        await last_words.bound(say(WorkerState.STOPPED))


async def _say(database: Database, me: Identity, state: WorkerState) -> None:
    """Tell the worker's row; a row that can't be told is called lost by its silence."""
    try:
        async with database.connection() as connection:
            await set_worker_state(connection, me.worker_id, state)
    except _DATABASE_AWAY as error:
        log.warning("worker_state_not_told", state=state, error=str(error))
