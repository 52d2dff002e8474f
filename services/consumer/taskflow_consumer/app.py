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
from taskflow_consumer.middleware.stop import StopReason
from taskflow_consumer.notes import CheckpointWriter
from taskflow_consumer.shutdown import Shutdown
from taskflow_consumer.subscriber import Claimer, Subscriber

STOP_TAKING_SECONDS = 10.0
"""How long a claim in flight may take to come back once the end was asked for."""

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
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(resources.database(settings))
        if not await is_ready_before(shutdown.wait, database):
            return
        me = _identity(settings, registry)
        say = await stack.enter_async_context(_registered(database, settings, registry, me))
        amqp_url = settings.amqp_url.get_secret_value()
        # An alarm in the broker blocks connections that publish, and only those.
        consuming = await stack.enter_async_context(resources.broker(amqp_url, "consume"))
        publishing = await stack.enter_async_context(resources.broker(amqp_url, "publish"))
        publisher = Publisher(publishing, timeout_seconds=settings.amqp_publish_timeout_seconds)
        relay = await stack.enter_async_context(resources.relay(publisher, database))
        object_store = await stack.enter_async_context(resources.object_store(settings))
        shipper = await stack.enter_async_context(
            resources.log_shipper(object_store, database, settings, me.worker_id)
        )
        # Bound late: the executor keeps its leases by the heartbeat.
        heartbeat = _heartbeat(settings, me, cancel=lambda *args: executor.cancel(*args))  # noqa: PLW0108
        # Laid down after the recorder: leases are kept until the last outcome is written.
        await stack.enter_async_context(resources.beating(heartbeat))
        executor = Executor(
            registry,
            recorder=await stack.enter_async_context(resources.recorder(database, relay)),
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
            await _work(subscriber, shutdown)
        finally:
            log.info("consumer_stopping", running=executor.concurrency - executor.free)
            # On the side: a database that is frozen must not hold up the end.
            draining = asyncio.create_task(say(WorkerState.DRAINING))
            await _wind_down(subscriber, executor, shutdown, settings.shutdown_grace_seconds)
            await draining
    log.info("consumer_stopped", worker_id=str(me.worker_id))


async def _work(subscriber: Subscriber, shutdown: Shutdown) -> None:
    """Take jobs until the end is asked for; raise what breaks the subscriber before."""
    subscriber.start()
    asked = asyncio.create_task(shutdown.wait())
    working = asyncio.create_task(subscriber.wait())
    await asyncio.wait({asked, working}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if working.done():
        working.result()
    working.cancel()


async def _wind_down(
    subscriber: Subscriber, executor: Executor, shutdown: Shutdown, grace_seconds: float
) -> None:
    """Take nothing more; wait for what runs, until the grace is over or haste is asked for."""
    broken = asyncio.create_task(subscriber.stop())
    hurry = asyncio.create_task(_drain_at_once(executor, shutdown))
    await asyncio.wait({broken}, timeout=STOP_TAKING_SECONDS)
    await executor.drain(grace_seconds)
    hurry.cancel()
    broken.cancel()
    await asyncio.gather(hurry, broken, return_exceptions=True)


async def _drain_at_once(executor: Executor, shutdown: Shutdown) -> None:
    await shutdown.wait_at_once()
    log.warning("consumer_stops_at_once")
    await executor.drain(0)


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
    database: Database, settings: ConsumerSettings, registry: Registry, me: Identity
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
        await say(WorkerState.STOPPED)


async def _say(database: Database, me: Identity, state: WorkerState) -> None:
    """Tell the worker's row; a row that can't be told is called lost by its silence."""
    try:
        async with database.connection() as connection:
            await set_worker_state(connection, me.worker_id, state)
    except _DATABASE_AWAY as error:
        log.warning("worker_state_not_told", state=state, error=str(error))
