"""How many messages wait in a lane's queue, asked of the broker itself.

RabbitMQ answers a passive declaration with 0 messages and 0 consumers when a quorum queue's leader
doesn't answer within 250 ms, for as long as that lasts. So a 0 alone is no proof of anything.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiormq.abc
import aiormq.exceptions
from aio_pika.abc import AbstractChannel
from aiormq import spec

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane

TIMEOUT_SECONDS = 5.0
"""A quorum queue that has lost its majority never answers."""

PROOF_SECONDS = 2.0
CLOSE_SECONDS = 1.0

Answer = TypeVar("Answer")
Ask = Callable[[aiormq.abc.AbstractChannel, str], Awaitable[Answer]]


class LaneDepths:
    """Looks at one lane after another, on one channel while it lasts."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._channel: AbstractChannel | None = None

    async def look(self, lane: Lane) -> int:
        """The messages that are ready in the lane; 0 when it has no queue, or one without a leader.

        Raises:
            ServiceUnavailable: the broker didn't say.
        """
        found = await self._ask(lane, _declare_passively, TIMEOUT_SECONDS)
        return found.message_count or 0 if found else 0

    async def is_drained(self, lane: Lane) -> bool:
        """Whether the lane is empty and has consumers: what was in it is with them.

        Raises:
            ServiceUnavailable: as `look`.
        """
        found = await self._ask(lane, _declare_passively, TIMEOUT_SECONDS)
        return found is not None and not found.message_count and bool(found.consumer_count)

    async def is_proven_empty(self, lane: Lane) -> bool:
        """Whether the queue itself says that no message is ready in it, or there is no queue.

        That is a command to a majority of its replicas. A message that it gives is put back.

        Raises:
            ServiceUnavailable: the queue didn't say.
        """
        return await self._ask(lane, _has_none, PROOF_SECONDS) is not False

    async def _ask(self, lane: Lane, ask: Ask[Answer], seconds: float) -> Answer | None:
        """What the broker answers about a lane's queue; None: there is none."""
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._broker.channel()
        try:
            async with asyncio.timeout(seconds):
                underlay = await self._channel.get_underlay_channel()
                return await ask(underlay, topology.lane_queue(lane))
        except aiormq.exceptions.ChannelNotFoundEntity:
            # The broker has closed the channel along with its answer.
            self._channel = None
            return None
        except BROKER_ERRORS as error:
            await self.close()
            raise ServiceUnavailable("RabbitMQ", str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Let go of the channel; the next look opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(channel.close(), CLOSE_SECONDS)


async def _declare_passively(
    channel: aiormq.abc.AbstractChannel, queue_name: str
) -> spec.Queue.DeclareOk:
    return await channel.queue_declare(queue_name, passive=True)


async def _has_none(channel: aiormq.abc.AbstractChannel, queue_name: str) -> bool:
    got = await channel.basic_get(queue_name)
    if isinstance(got.delivery, spec.Basic.GetEmpty):
        return True
    await channel.basic_nack(got.delivery_tag or 0, requeue=True)
    return False
