"""The worker's life: it begins, works, and ends in peace or in haste."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog

from taskflow.db.startup import is_ready_before
from taskflow.jobs.worker_state import WorkerState
from taskflow.sdk.registry import Registry
from taskflow.sealing.ring import SealingKeyRing
from taskflow.settings import ConsumerSettings
from taskflow_consumer import resources
from taskflow_consumer.executor import Executor
from taskflow_consumer.last_words import AT_ONCE_SECONDS, LastWords
from taskflow_consumer.registration import identify, registered
from taskflow_consumer.renewal import Renewal
from taskflow_consumer.shutdown import Shutdown
from taskflow_consumer.subscriber import Subscriber
from taskflow_consumer.worker import Premises, build_worker

RELEASE_SECONDS = 6.0
"""How much of the last words' time jobs have that are handed back; outcomes go on beyond it."""

log = structlog.get_logger(__name__)


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
        me = identify(settings, registry)
        say = await stack.enter_async_context(
            registered(me, registry, database, settings.concurrency, last_words)
        )
        ring = SealingKeyRing.of(settings.payload_keys.get_secret_value())
        premises = Premises(settings, registry, ring, me, database, last_words)
        worker = await build_worker(premises, stack)
        executor = worker.executor
        log.info("consumer_started", worker_id=str(me.worker_id), queues=me.queues)
        try:
            await _work(worker.subscriber, worker.renewal, shutdown)
        finally:
            log.info("consumer_stopping", running=executor.in_hand)
            # On the side: a database that is frozen must not hold up the end.
            draining = asyncio.create_task(say(WorkerState.DRAINING))
            grace_seconds = settings.shutdown_grace_seconds
            await _wind_down(worker.subscriber, executor, shutdown, last_words, grace_seconds)
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
