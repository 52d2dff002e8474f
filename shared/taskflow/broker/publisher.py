"""Publishing with confirms: a message counts as sent when the broker has it on disk."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import cast

import aiormq
import structlog
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aiormq.channel import Channel

from taskflow.broker import topology
from taskflow.broker.burst import Burst
from taskflow.broker.connection import Broker
from taskflow.broker.message import REASON_HEADER, encode
from taskflow.broker.outages import BROKER_ERRORS, ends_explained, library_cancellations
from taskflow.errors import PublishFailed, PublishTimedOut, ServiceUnavailable
from taskflow.jobs.backoff import rung_for
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer

log = structlog.get_logger(__name__)

_UNREACHABLE: tuple[type[Exception], ...] = (*BROKER_ERRORS, ServiceUnavailable)
_UNANSWERED: tuple[type[Exception], ...] = (*_UNREACHABLE, PublishFailed)
_MISSING: tuple[type[BaseException], ...] = (
    aiormq.exceptions.ChannelNotFoundEntity,
    aiormq.exceptions.PublishError,
)
"""What says that an exchange or the queue behind it is gone, while the connection lives."""


class Publisher:
    """One long-lived channel; many messages may be in flight on it at once.

    Where a message finds no exchange or no queue, the topology is declared again and the message
    sent once more: a broker may be emptied at any time. Who may not declare leaves it to the
    scheduler, with the message.
    """

    def __init__(self, broker: Broker, *, timeout_seconds: float) -> None:
        self._broker = broker
        self._timeout = timeout_seconds
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._declared: set[Lane] = set()
        self._declaring_lane: defaultdict[Lane, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._declaring = asyncio.Lock()
        self._declarations = 0

    @property
    def ready(self) -> bool:
        """Whether publishing has a chance now."""
        return self._broker.connected and not self._broker.in_alarm

    async def publish(self, pointer: Pointer) -> None:
        """Put a pointer into its job's lane.

        Raises:
            PublishFailed: not confirmed in time; the message may have arrived all the same.
        """
        await self._publish_to(topology.JOBS_EXCHANGE, pointer)

    async def publish_many(
        self, pointers: Sequence[Pointer], delay_seconds: float = 0.0
    ) -> list[PublishFailed | None]:
        """Put pointers into their lane, one for all, or on its rung for a delay, as one piece.

        For each, in their order, None or why it is not confirmed, as `publish` and `publish_later`
        would raise it. Where something is missing, a declaration and another try may take as long
        again each.
        """
        exchange = topology.JOBS_EXCHANGE
        if delay_seconds > 0:
            exchange = topology.retry_exchange(rung_for(delay_seconds))
        seen = self._declarations
        errors = await self._burst(pointers, exchange)
        missing = [at for at, error in enumerate(errors) if isinstance(error, _MISSING)]
        if missing and await self._declared_again(seen):
            again = await self._burst([pointers[at] for at in missing], exchange)
            for at, error in zip(missing, again, strict=True):
                errors[at] = error
        return [None if error is None else _failure_of(error) for error in errors]

    async def _burst(self, pointers: Sequence[Pointer], exchange: str) -> list[Exception | None]:
        lane, burst = pointers[0].lane, Burst(pointers)
        unanswered: Exception = PublishFailed("not answered")
        try:
            async with self._patience():
                await self._declare_lane(lane)
                await burst.publish(await self._underlay(), exchange=exchange, routing_key=lane.key)
        except _UNANSWERED as error:
            unanswered = error
        return burst.errors(unanswered)

    async def publish_later(self, pointer: Pointer, delay_seconds: float) -> None:
        """Put a pointer on the rung that brings it to its lane after `delay_seconds` at most.

        Raises:
            PublishFailed: as `publish`.
        """
        await self._publish_to(topology.retry_exchange(rung_for(delay_seconds)), pointer)

    async def publish_dead(self, message: Message, routing_key: str, reason: str) -> None:
        """Put a message that leads nowhere, or a failed job's pointer, among the dead.

        Raises:
            PublishFailed: as `publish`.
        """
        message.headers[REASON_HEADER] = reason
        await self._publish(message, topology.DEAD_EXCHANGE, routing_key)

    async def _publish_to(self, exchange: str, pointer: Pointer) -> None:
        # The way back from a rung ends in the lane, so the lane must be there by then.
        await self._publish(encode(pointer), exchange, pointer.lane.key, pointer.lane)

    async def _publish(
        self, message: Message, exchange: str, routing_key: str, lane: Lane | None = None
    ) -> None:
        async with self._failures():
            seen = self._declarations
            try:
                await self._declare_lane(lane)
                await self._send(message, exchange, routing_key)
            except _MISSING:
                if not self._broker.may_declare:
                    raise
                await self._declare_all(seen)
                await self._declare_lane(lane)
                await self._send(message, exchange, routing_key)

    @contextlib.asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        try:
            async with self._patience():
                yield
        except _UNREACHABLE as error:
            raise _failure_of(error) from error

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Wait for the broker no longer than we may."""
        try:
            with library_cancellations():
                async with asyncio.timeout(self._timeout):
                    yield
        except TimeoutError as error:
            raise PublishTimedOut(f"not confirmed within {self._timeout:g} s") from error

    async def _send(self, message: Message, exchange: str, routing_key: str) -> None:
        channel = await self._underlay()
        with ends_explained(channel):
            confirmation = await channel.basic_publish(
                message.body,
                exchange=exchange,
                routing_key=routing_key,
                properties=message.properties,
                mandatory=True,
            )
        if not isinstance(confirmation, aiormq.spec.Basic.Ack):
            raise PublishFailed(f"the broker refused the message: {confirmation}")

    async def _underlay(self) -> Channel:
        if self._broker.in_alarm:
            raise ServiceUnavailable("RabbitMQ", "it is in alarm and takes no messages")
        # The one that aiormq has; aio-pika names its interface.
        return cast("Channel", await (await self._open_channel()).get_underlay_channel())

    async def _open_channel(self) -> AbstractChannel:
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                # A broker that was reset to empty has lost the lanes along with the channel.
                self._declared.clear()
                self._channel = await self._broker.channel(publisher_confirms=True)
            return self._channel

    async def _declared_again(self, seen: int) -> bool:
        if not self._broker.may_declare:
            return False
        try:
            async with self._failures():
                await self._declare_all(seen)
        except PublishFailed as failure:
            log.warning("topology_not_declared", error=str(failure))
            return False
        return True

    async def _declare_all(self, seen: int) -> None:
        """Declare the topology, unless somebody has done so since `seen`: a window fails as one."""
        async with self._declaring:
            if self._declarations == seen:
                log.warning("topology_missing")
                await self._broker.declare_topology()
                self._declared.clear()
                self._declarations += 1

    async def _declare_lane(self, lane: Lane | None) -> None:
        await self._open_channel()
        # Without a queue the message goes to the unrouted, from where a scheduler has it sent anew
        # when it has declared the lane.
        if lane is None or lane in self._declared or not self._broker.may_declare:
            return
        async with self._declaring_lane[lane]:
            # A whole window may wait here: only the first one declares.
            if lane not in self._declared:
                async with self._broker.short_channel() as channel:
                    await topology.declare_lane(channel, lane)
                self._declared.add(lane)

    def forget_lanes(self) -> None:
        """Declare lanes again before the next message: something said that one is missing."""
        self._declared.clear()


def _failure_of(error: BaseException) -> PublishFailed:
    if isinstance(error, PublishFailed):
        return error
    return PublishFailed(str(error) or type(error).__name__)
