"""Publishing with confirms: a message counts as sent when the broker has it on disk."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiormq
from aio_pika import Message
from aio_pika.abc import AbstractChannel

from taskflow.broker import topology
from taskflow.broker.connection import BROKER_ERRORS, Broker
from taskflow.broker.message import REASON_HEADER, encode
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.jobs.backoff import rung_for
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer

_UNREACHABLE: tuple[type[BaseException], ...] = (*BROKER_ERRORS, ServiceUnavailable)


class Publisher:
    """One long-lived channel; many messages may be in flight on it at once."""

    def __init__(self, broker: Broker, *, timeout_seconds: float) -> None:
        self._broker = broker
        self._timeout = timeout_seconds
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._declared: set[Lane] = set()

    @property
    def ready(self) -> bool:
        """Whether publishing has a chance now."""
        return self._broker.connected

    async def publish(self, pointer: Pointer) -> None:
        """Put a pointer into its job's lane.

        Raises:
            PublishFailed: not confirmed in time; the message may have arrived all the same.
        """
        async with self._failures():
            await self._declare_lane(pointer.lane)
            await self._send(encode(pointer), topology.JOBS_EXCHANGE, pointer.lane.key)

    async def publish_later(self, pointer: Pointer, delay_seconds: float) -> None:
        """Put a pointer on the rung that brings it to its lane after `delay_seconds` at most.

        Raises:
            PublishFailed: as `publish`.
        """
        exchange = topology.retry_exchange(rung_for(delay_seconds))
        async with self._failures():
            # The way back from the rung ends in the lane, so the lane must be there by then.
            await self._declare_lane(pointer.lane)
            await self._send(encode(pointer), exchange, pointer.lane.key)

    async def publish_dead(self, message: Message, routing_key: str, reason: str) -> None:
        """Put a message that leads nowhere, or a failed job's pointer, among the dead.

        Raises:
            PublishFailed: as `publish`.
        """
        message.headers[REASON_HEADER] = reason
        async with self._failures():
            await self._send(message, topology.DEAD_EXCHANGE, routing_key)

    @contextlib.asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except _UNREACHABLE as error:
            raise PublishFailed(str(error) or type(error).__name__) from error

    async def _send(self, message: Message, exchange: str, routing_key: str) -> None:
        underlay = await (await self._open_channel()).get_underlay_channel()
        confirmation = await underlay.basic_publish(
            message.body,
            exchange=exchange,
            routing_key=routing_key,
            properties=message.properties,
            mandatory=True,
        )
        if not isinstance(confirmation, aiormq.spec.Basic.Ack):
            raise PublishFailed(f"the broker refused the message: {confirmation}")

    async def _open_channel(self) -> AbstractChannel:
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                # A broker that was reset to empty has lost the lanes along with the channel.
                self._declared.clear()
                self._channel = await self._broker.channel(publisher_confirms=True)
            return self._channel

    async def _declare_lane(self, lane: Lane) -> None:
        await self._open_channel()
        if lane in self._declared:
            return
        async with self._broker.short_channel() as channel:
            await topology.declare_lane(channel, lane)
        self._declared.add(lane)

    def forget_lanes(self) -> None:
        """Declare lanes again before the next message: something said that one is missing."""
        self._declared.clear()
