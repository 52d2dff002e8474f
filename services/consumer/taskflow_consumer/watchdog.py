"""Finds consumers that the broker has forgotten: they get no message, and no error either."""

import asyncio
from collections.abc import Callable, Sequence

import aiormq.exceptions
import structlog

from taskflow.broker import topology
from taskflow.broker.connection import Broker
from taskflow.broker.outages import BROKER_ERRORS
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow_consumer.lane_consumer import LaneConsumer

LOOK_SECONDS = 10.0
SECOND_LOOK_SECONDS = 1.0
"""How soon a miss is looked at again: a consumer that comes or goes right now is none."""
MISSES_ALLOWED = 2

_BROKER_AWAY: tuple[type[BaseException], ...] = (*BROKER_ERRORS, ServiceUnavailable)

log = structlog.get_logger(__name__)


class Watchdog:
    """Looks at the lanes of `consumers` until it is cancelled, and tells of what it misses."""

    def __init__(
        self, broker: Broker, consumers: Sequence[LaneConsumer], on_forgotten: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._consumers = consumers
        self._on_forgotten = on_forgotten

    async def watch(self) -> None:
        """Call `on_forgotten` when a lane has been without its consumer for two looks."""
        misses = 0
        while True:
            await asyncio.sleep(min(SECOND_LOOK_SECONDS, LOOK_SECONDS) if misses else LOOK_SECONDS)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    forgotten = await self.look()
            except _BROKER_AWAY as error:
                log.debug("watchdog_could_not_look", error=str(error))
                continue
            misses = misses + 1 if forgotten else 0
            if misses >= MISSES_ALLOWED:
                log.error("consumers_forgotten", lanes=forgotten)
                self._on_forgotten()

    async def look(self) -> list[str]:
        """Lanes that we consume, and that are gone, or in which messages wait for nobody."""
        return [
            consumer.lane.key
            for consumer in self._consumers
            if consumer.consumes and await self._is_forgotten(consumer.lane) and consumer.consumes
        ]

    async def _is_forgotten(self, lane: Lane) -> bool:
        """Whether the broker knows of no consumer.

        0 consumers alone is what RabbitMQ also says where a queue's leader doesn't answer, along
        with 0 messages.
        """
        try:
            async with self._broker.short_channel() as channel:
                queue = await channel.declare_queue(topology.lane_queue(lane), passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return True
        found = queue.declaration_result
        return bool(found.message_count) and not found.consumer_count
