"""What a worker is made of: born here in its order, laid down in the opposite one."""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID

import structlog

from taskflow.artifacts import ArtifactStore
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.relay import Relay
from taskflow.sdk.registry import Registry
from taskflow.sealing.ring import SealingKeyRing
from taskflow.settings import ConsumerSettings
from taskflow_consumer import resources
from taskflow_consumer.executor import Executor
from taskflow_consumer.handler_chain import HandlerChain
from taskflow_consumer.heartbeat import Heartbeat
from taskflow_consumer.last_words import LastWords
from taskflow_consumer.middleware.stop import StopReason
from taskflow_consumer.notes import CheckpointWriter
from taskflow_consumer.registration import Identity
from taskflow_consumer.renewal import Renewal
from taskflow_consumer.settlement import Settlement
from taskflow_consumer.subscriber import Subscriber
from taskflow_consumer.taker import Claimer, Taker


@dataclass(frozen=True, slots=True)
class Premises:
    """What is there before a worker is built."""

    settings: ConsumerSettings
    registry: Registry
    ring: SealingKeyRing
    me: Identity
    database: Database
    last_words: LastWords


@dataclass(frozen=True, slots=True)
class Worker:
    """What takes jobs, what runs them, and what says when to make room for a fresh process."""

    subscriber: Subscriber
    executor: Executor
    renewal: Renewal


async def build_worker(premises: Premises, stack: AsyncExitStack) -> Worker:
    """A worker that takes nothing yet; `stack` lays its resources down."""
    settings, me = premises.settings, premises.me
    database, last_words = premises.database, premises.last_words
    amqp_url = settings.amqp_url.get_secret_value()
    # An alarm in the broker blocks connections that publish, and only those.
    consuming = await stack.enter_async_context(resources.broker(amqp_url, "consume", last_words))
    publishing = await stack.enter_async_context(resources.broker(amqp_url, "publish", last_words))
    publisher = Publisher(publishing, timeout_seconds=settings.amqp_publish_timeout_seconds)
    relay = await stack.enter_async_context(resources.relay(publisher, database, last_words))
    # Bound late: the executor keeps its leases by the heartbeat.
    heartbeat = _heartbeat(settings, me, cancel=lambda *args: executor.cancel(*args))  # noqa: PLW0108
    executor = await _build_executor(premises, stack, relay, heartbeat)
    renewal = Renewal(
        executor,
        max_jobs=settings.max_jobs_per_process,
        max_memory_mib=settings.max_memory_mib,
    )
    settlement = Settlement(publisher, relay)
    taker = Taker(
        publisher=publisher,
        settlement=settlement,
        database=database,
        executor=executor,
        claimer=Claimer(
            me.worker_id,
            me.job_types,
            settings.lease_seconds,
            premises.ring.key_ids,
            settings.quota_running_jobs,
        ),
        on_watermark=heartbeat.claimed,
    )
    subscriber = Subscriber(
        broker=consuming, taker=taker, settlement=settlement, executor=executor, lanes=me.lanes
    )
    return Worker(subscriber, executor, renewal)


async def _build_executor(
    premises: Premises, stack: AsyncExitStack, relay: Relay, heartbeat: Heartbeat
) -> Executor:
    settings, database = premises.settings, premises.database
    last_words = premises.last_words
    object_store = await stack.enter_async_context(resources.object_store(settings))
    log_shipper = await stack.enter_async_context(
        resources.log_shipper(object_store, database, settings, premises.me.worker_id, last_words)
    )
    # Laid down after the recorder: leases are kept until the last outcome is written.
    await stack.enter_async_context(resources.beating(heartbeat))
    log = structlog.get_logger("taskflow_consumer.executor")
    artifacts = ArtifactStore(object_store)
    chain = HandlerChain(
        premises.registry,
        leases=heartbeat,
        artifacts=artifacts,
        ring=premises.ring,
        log=log,
        result_inline_bytes=settings.result_inline_bytes,
        result_max_bytes=settings.result_max_bytes,
    )
    await chain.warm_up()
    return Executor(
        premises.registry,
        chain.run,
        recorder=await stack.enter_async_context(
            resources.recorder(
                database, relay, last_words, running_quota=settings.quota_running_jobs
            )
        ),
        leases=heartbeat,
        log_shipper=log_shipper,
        artifacts=artifacts,
        progress=await stack.enter_async_context(resources.progress(database)),
        checkpoints=CheckpointWriter(database, premises.ring),
        concurrency=settings.concurrency,
        log=log,
        random=random.Random(),  # noqa: S311 - jitter, not a secret
    )


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
