"""Consumers at real servers, and jobs for them."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import structlog
from uuid_utils.compat import uuid7

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.jobs.states import Priority
from taskflow.sealing.ring import SealingKeyRing
from taskflow_consumer import resources
from taskflow_consumer.executor import Executor
from taskflow_consumer.handler_chain import HandlerChain
from taskflow_consumer.last_words import LastWords
from taskflow_consumer.recorder import Recorder
from taskflow_consumer.settlement import Settlement
from taskflow_consumer.subscriber import Subscriber
from taskflow_consumer.taker import Claimer, Taker
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy

from .house import LANES, House, Ours, Start, database_at


@pytest.fixture
async def database(clean_database: str) -> AsyncIterator[Database]:
    async with database_at(clean_database) as database:
        yield database


@pytest.fixture
async def far(clean_database: str) -> AsyncIterator[tuple[TcpProxy, Database]]:
    """The same database by a way that can be cut; it is there until the last subscriber ends."""
    async with (
        TcpProxy(clean_database) as proxy,
        database_at(proxy.url, timeout_seconds=1) as database,
    ):
        yield proxy, database


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(resources.broker(amqp_url, "test", LastWords()))
        await asyncio.wait_for(broker.wait_connected(), 20)
        async with broker.short_channel() as channel:
            for lane in LANES:
                await channel.queue_delete(topology.lane_queue(lane))
            await topology.declare(channel)
            for lane in LANES:
                await topology.declare_lane(channel, lane)
            # What another test has left there would arrive in the middle of this one.
            for name in topology.QUEUES:
                await (await channel.get_queue(name, ensure=False)).purge()
        yield broker


@pytest.fixture
async def start(
    broker: Broker, database: Database, far: tuple[TcpProxy, Database], amqp_url: str
) -> AsyncIterator[Start]:
    del far  # A subscriber ends with its last claim, which may go that way.
    async with AsyncExitStack() as stack:

        async def start_consumer(
            *,
            concurrency: int = 4,
            url: str = amqp_url,
            publishing: Broker = broker,
            database: Database = database,
        ) -> House:
            house = House()
            consuming = house.consuming = await stack.enter_async_context(
                resources.broker(url, "consume", LastWords())
            )
            publisher = Publisher(publishing, timeout_seconds=5)
            relay = await stack.enter_async_context(
                resources.relay(publisher, database, LastWords())
            )
            ours: Any = Ours()
            registry = house.registry()
            chain = HandlerChain(
                registry,
                leases=ours,
                artifacts=ours,
                ring=SealingKeyRing({}),
                log=structlog.get_logger(),
                result_inline_bytes=1000,
                result_max_bytes=1000,
            )
            executor = Executor(
                registry,
                chain.run,
                recorder=Recorder(database, relay),
                leases=ours,
                log_shipper=ours,
                artifacts=ours,
                checkpoints=ours,
                progress=ours,
                log=structlog.get_logger(),
                random=random.Random(1),
                concurrency=concurrency,
            )
            stack.push_async_callback(executor.drain, 0)
            settlement = Settlement(publisher, relay)
            taker = house.taker = Taker(
                publisher=publisher,
                settlement=settlement,
                database=database,
                executor=executor,
                claimer=Claimer(uuid7(), registry.names, 15.0),
                on_watermark=house.note,
            )
            subscriber = house.subscriber = Subscriber(
                broker=consuming, taker=taker, settlement=settlement, executor=executor, lanes=LANES
            )
            subscriber.start()
            stack.push_async_callback(subscriber.stop)
            return house

        yield start_consumer


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    connection = await asyncpg.connect(clean_database)
    yield Jobs(connection)
    await connection.close()


@pytest.fixture
def post(jobs: Jobs, broker: Broker) -> Callable[..., Awaitable[UUID]]:
    publisher = Publisher(broker, timeout_seconds=5)

    async def post_job(text: str, **changes: Any) -> UUID:
        job_id = await jobs.submit(payload={"text": text}, **changes)
        row = await jobs.row(job_id)
        lane = Lane(row["queue"], Priority(row["priority"]))
        await publisher.publish(Pointer(job_id, lane, row["type"], row["pointer_at"]))
        return job_id

    return post_job
