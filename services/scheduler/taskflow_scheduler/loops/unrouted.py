"""Gives pointers that found no lane back to the database, which has them sent anew.

They lie in the alternate exchange's queue: a lane was missing, or its queue refused them.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

import aiormq.abc
import structlog
from aio_pika import DeliveryMode, Message

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.message import UndecodableMessage, decode
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.broker.publisher import Publisher
from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.dispatch import SLICE, unstamp_unrouted

ARRIVAL_TIMEOUT_SECONDS = 2.0
BROKER_TIMEOUT_SECONDS = 10.0
"""A quorum queue that has lost its majority never answers."""

log = structlog.get_logger(__name__)


class ReturnUnrouted:
    """Drains the queue of unrouted messages in slices."""

    def __init__(self, database: Database, broker: Broker, publisher: Publisher) -> None:
        self._database = database
        self._broker = broker
        self._publisher = publisher

    async def round(self) -> bool:
        """Return one slice; whether there is more."""
        if not self._broker.connected:
            return False
        # The database comes first: messages that are taken and put back count as redelivered.
        async with (
            self._database.connection() as connection,
            self._broker.short_channel() as channel,
        ):
            underlay = await channel.get_underlay_channel()
            with _outages():
                async with asyncio.timeout(BROKER_TIMEOUT_SECONDS):
                    messages, more = await _take(underlay)
            if not messages:
                return False
            pointers = await self._sort_out(messages)
            unstamped = await unstamp_unrouted(connection, pointers)
            self._publisher.forget_lanes()
            with _outages():
                await underlay.basic_ack(messages[-1].delivery_tag or 0, multiple=True)
        log.warning("unrouted_returned", messages=len(messages), jobs=unstamped)
        return more

    async def _sort_out(
        self, messages: Sequence[aiormq.abc.DeliveredMessage]
    ) -> list[tuple[UUID, datetime | None]]:
        """The pointers among `messages`; what is none goes to the dead."""
        pointers = []
        for message in messages:
            try:
                pointer = decode(message.body, message.header.properties.headers)
            except UndecodableMessage as error:
                await self._publisher.publish_dead(
                    _copy(message), message.routing_key or "", str(error)
                )
            else:
                pointers.append((pointer.job_id, pointer.pointer_at))
        return pointers


@contextlib.contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except BROKER_ERRORS as error:
        raise ServiceUnavailable("RabbitMQ", str(error) or type(error).__name__) from error


async def _take(
    channel: aiormq.abc.AbstractChannel,
) -> tuple[list[aiormq.abc.DeliveredMessage], bool]:
    """Up to a slice of messages, unacked, and whether more lay behind them."""
    found = await channel.queue_declare(topology.UNROUTED_QUEUE, passive=True)
    expected = min(found.message_count or 0, SLICE)
    if not expected:
        return [], False
    taken: list[aiormq.abc.DeliveredMessage] = []
    complete = asyncio.Event()

    async def take(message: aiormq.abc.DeliveredMessage) -> None:
        taken.append(message)
        if len(taken) >= expected:
            complete.set()

    await channel.basic_qos(prefetch_count=expected)
    consumer = await channel.basic_consume(topology.UNROUTED_QUEUE, take)
    # Another scheduler may have been faster; what came is enough then.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(complete.wait(), ARRIVAL_TIMEOUT_SECONDS)
    await channel.basic_cancel(consumer.consumer_tag or "")
    return list(taken), (found.message_count or 0) > len(taken)


def _copy(message: aiormq.abc.DeliveredMessage) -> Message:
    properties = message.header.properties
    return Message(
        message.body,
        headers=dict(properties.headers or {}),
        content_type=properties.content_type,
        message_id=properties.message_id,
        type=properties.message_type,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
