"""Finds waiting jobs whose pointer the broker has lost, and sends them another one.

Messages are never counted against rows: a queue's depth leaves out what is unacked or on its way
back from a rung, and duplicates hide losses. A pointer is lost when newer ones have been claimed
from its lane for long, or when its lane has been empty for long. Before the latter is believed, the
queue itself is asked: one without a leader is reported as empty, and holds a whole backlog.
"""

from datetime import datetime

import structlog

from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.dispatch import SLICE, stamp_lost, waiting_lanes
from taskflow.jobs.lanes import Lane
from taskflow.relay import Relay
from taskflow_scheduler.continuity import Continuity
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.loops.dispatch import publish

log = structlog.get_logger(__name__)


class RepublishLost:
    """Remembers for how long each lane has been empty; `republished` counts what was sent again."""

    def __init__(
        self,
        database: Database,
        relay: Relay,
        depths: LaneDepths,
        *,
        lost_after_seconds: float,
        longest_gap_seconds: float,
    ) -> None:
        self.republished = 0
        self._database = database
        self._relay = relay
        self._depths = depths
        self._lost_after = lost_after_seconds
        # One for all lanes: a round through thousands, or through some whose queues have no leader,
        # takes longer than any gap in which nobody has looked at all.
        self._attention = Continuity(longest_gap_seconds)
        self._empty_since: dict[Lane, float] = {}
        # Kept until all that was lost by then is sent again: the first slice ends the emptiness.
        self._empty_at: dict[Lane, datetime] = {}

    async def round(self) -> bool:
        """Look at every lane in which a job waits; whether one has more lost pointers."""
        if not self._relay.ready:
            return False
        async with self._database.connection() as connection:
            lanes = await waiting_lanes(connection)
        more = False
        self._empty_since = {
            lane: since for lane, since in self._empty_since.items() if lane in lanes
        }
        for lane, seen_at in lanes.items():
            self._attend()
            if await self._is_empty_for_long(lane):
                self._empty_at.setdefault(lane, seen_at)
            if await self._republish(lane):
                more = True
            else:
                self._empty_at.pop(lane, None)
        return more

    async def _is_empty_for_long(self, lane: Lane) -> bool:
        try:
            if await self._depths.look(lane) == 0:
                attended = self._attend()
                if attended - self._empty_since.setdefault(lane, attended) < self._lost_after:
                    return False
                if await self._depths.is_proven_empty(lane):
                    return True
        except ServiceUnavailable as error:
            # One queue that doesn't answer must not hide the losses of all others.
            log.warning("lane_not_seen", lane=lane.key, error=str(error))
        self._empty_since.pop(lane, None)
        return False

    def _attend(self) -> float:
        """For how long somebody has looked without a gap (seconds); after one all begins anew."""
        attended = self._attention.look()
        if attended == 0:
            self._empty_since.clear()
        return attended

    async def _republish(self, lane: Lane) -> bool:
        async with self._database.connection() as connection:
            lost = await stamp_lost(
                connection,
                lane,
                empty_at=self._empty_at.get(lane),
                lost_after_seconds=self._lost_after,
            )
        if not lost:
            return False
        self.republished += len(lost)
        log.warning(
            "lost_pointers_republished", lane=lane.key, count=len(lost), total=self.republished
        )
        await publish(self._relay, lost)
        return len(lost) == SLICE
