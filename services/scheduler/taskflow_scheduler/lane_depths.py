"""How many messages wait in a lane's queue, asked of the broker itself."""

import asyncio
import contextlib

import aiormq.exceptions
from aio_pika.abc import AbstractChannel

from taskflow.broker import topology
from taskflow.broker.connection import BROKER_ERRORS, Broker
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane

TIMEOUT_SECONDS = 5.0
"""A quorum queue that has lost its majority never answers."""


class LaneDepths:
    """Looks at one lane after another, on one channel while it lasts."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._channel: AbstractChannel | None = None

    async def look(self, lane: Lane) -> int:
        """The messages that are ready in the lane; 0 when it has no queue.

        Raises:
            ServiceUnavailable: the broker didn't say.
        """
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._broker.channel()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                underlay = await self._channel.get_underlay_channel()
                answer = await underlay.queue_declare(topology.lane_queue(lane), passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            # The broker has closed the channel along with its answer.
            self._channel = None
            return 0
        except BROKER_ERRORS as error:
            await self.close()
            raise ServiceUnavailable("RabbitMQ", str(error) or type(error).__name__) from error
        return answer.message_count or 0

    async def close(self) -> None:
        """Let go of the channel; the next look opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(*BROKER_ERRORS):
                await asyncio.wait_for(channel.close(), TIMEOUT_SECONDS)
