"""Keeps the lanes of live workers in place, who may not declare anything themselves."""

import asyncio
import time
from collections.abc import Sequence

import aiormq.exceptions
import structlog

from taskflow.broker import topology
from taskflow.broker.connection import ANSWER_TIMEOUT_SECONDS, Broker
from taskflow.broker.outages import BROKER_ERRORS, said
from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.lanes import Lane
from taskflow.jobs.states import Priority
from taskflow.jobs.workers import served_queues

AGAIN_AFTER_SECONDS = 10.0
"""How soon a lane is declared again, in case it was deleted meanwhile."""

log = structlog.get_logger(__name__)


class KeepLanes:
    """Declares what a new worker waits for at the next tick, and all of it now and then."""

    def __init__(self, database: Database, broker: Broker, *, lost_after_seconds: float) -> None:
        self._database = database
        self._broker = broker
        self._lost_after_seconds = lost_after_seconds
        self._declared: dict[Lane, float] = {}

    async def round(self) -> bool:
        """Declare the lanes that have had no declaration for a while; there is never more.

        Raises:
            ServiceUnavailable: RabbitMQ has gone.
        """
        if not self._broker.connected:
            # It may come back empty.
            self._declared.clear()
            return False
        async with self._database.connection() as connection:
            queues = await served_queues(connection, lost_after_seconds=self._lost_after_seconds)
        lanes = [Lane(queue, priority) for queue in sorted(queues) for priority in Priority]
        oldest = time.monotonic() - AGAIN_AFTER_SECONDS
        self._declared = {
            lane: at for lane in lanes if (at := self._declared.get(lane, 0.0)) > oldest
        }
        missing: Sequence[Lane] = [lane for lane in lanes if lane not in self._declared]
        while missing:
            missing = await self._declare(missing)
        return False

    async def _declare(self, lanes: Sequence[Lane]) -> Sequence[Lane]:
        """Declare lanes up to the first that is refused; those after it, which need a new channel.

        A queue of an older version, with other arguments, must not hold up the others.
        """
        async with self._broker.short_channel() as channel:
            for number, lane in enumerate(lanes, 1):
                self._declared[lane] = time.monotonic()
                try:
                    async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                        await topology.declare_lane(channel, lane)
                except aiormq.exceptions.ChannelClosed as error:
                    log.warning("lane_not_declared", lane=lane.key, error=said(error))
                    return lanes[number:]
                except BROKER_ERRORS as error:
                    raise ServiceUnavailable("RabbitMQ", said(error)) from error
        return []
