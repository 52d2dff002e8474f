"""Sends an orphan a second pointer where its first one fell to a worker that is frozen as well.

The broker deals pointers to every connection that it holds for alive, and it notices a frozen one
only when its heartbeats have been missing for long. A pointer that is neither waiting in the lane
nor claimed after a moment is with such a worker, if the lane has consumers; another one goes to the
next in line. A duplicate does no harm: whoever claims second is told that there is nothing to run.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from taskflow.db.pool import Database
from taskflow.errors import ServiceUnavailable
from taskflow.jobs.dispatch import SLICE, restamp
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.relay import Relay
from taskflow_scheduler.lane_depths import LaneDepths
from taskflow_scheduler.loops.dispatch import publish

REPEAT_AFTER_SECONDS = 1.2
"""Longer than a worker without a free slot keeps a pointer before it hands it back."""

MAX_REPEATS = 4
"""How many further pointers a job may get; then the broker has noticed, or nobody is there."""

WATCHED_SECONDS = 20.0
MAX_WATCHED = 10_000
"""Beyond it pointers are left to the rule for lost ones."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unclaimed:
    pointer: Pointer
    repeats: int
    look_at: float
    until: float


class RepeatPointers:
    """Watches the pointers of rescued jobs for a while; `repeated` counts what was sent again."""

    def __init__(
        self,
        database: Database,
        relay: Relay,
        depths: LaneDepths,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.repeated = 0
        self._database = database
        self._relay = relay
        self._depths = depths
        self._clock = clock
        self._watched: list[_Unclaimed] = []

    def watch(self, pointers: Iterable[Pointer]) -> None:
        """Look after pointers that are published now."""
        now = self._clock()
        room = MAX_WATCHED - len(self._watched)
        self._watched += [
            _Unclaimed(pointer, 0, now + REPEAT_AFTER_SECONDS, now + WATCHED_SECONDS)
            for pointer in list(pointers)[:room]
        ]

    async def round(self) -> bool:
        """Look at those whose time has come; never is there more."""
        now = self._clock()
        due = [each for each in self._watched if each.look_at <= now][:SLICE]
        if not due or not self._relay.ready:
            return False
        looked_at = {each.pointer for each in due}
        self._watched = [each for each in self._watched if each.pointer not in looked_at]
        waiting_in_lane, taken = await self._by_lane(due)
        again = {each.pointer.job_id: each for each in taken}
        self._keep(waiting_in_lane, now)
        try:
            repeated = await self._repeat(taken)
        except Exception:
            self._keep(taken, now)
            raise
        self._keep((_repeat_of(again[pointer.job_id], pointer) for pointer in repeated), now)
        return False

    async def _by_lane(
        self, due: Sequence[_Unclaimed]
    ) -> tuple[list[_Unclaimed], list[_Unclaimed]]:
        """Those whose lane holds messages, or doesn't say, and those that consumers have taken."""
        drained = {
            lane: await self._is_drained(lane) for lane in {each.pointer.lane for each in due}
        }
        waiting = [each for each in due if not drained[each.pointer.lane]]
        return waiting, [each for each in due if drained[each.pointer.lane]]

    async def _is_drained(self, lane: Lane) -> bool:
        try:
            return await self._depths.is_drained(lane)
        except ServiceUnavailable as error:
            log.warning("lane_not_seen", lane=lane.key, error=str(error))
            return False

    async def _repeat(self, taken: Sequence[_Unclaimed]) -> list[Pointer]:
        if not taken:
            return []
        async with self._database.connection() as connection:
            repeated = await restamp(connection, [each.pointer for each in taken])
        if repeated:
            self.repeated += len(repeated)
            log.warning("orphans_unclaimed", count=len(repeated), total=self.repeated)
        await publish(self._relay, repeated)
        return repeated

    def _keep(self, pointers: Iterable[_Unclaimed], now: float) -> None:
        self._watched += [
            _Unclaimed(each.pointer, each.repeats, now + REPEAT_AFTER_SECONDS, each.until)
            for each in pointers
            if each.repeats < MAX_REPEATS and now < each.until
        ]


def _repeat_of(before: _Unclaimed, pointer: Pointer) -> _Unclaimed:
    return _Unclaimed(pointer, before.repeats + 1, before.look_at, before.until)
