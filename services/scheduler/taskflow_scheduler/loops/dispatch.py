"""Sends what is due: jobs whose time has come, retries, and what could not be published before."""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE, stamp_due
from taskflow.jobs.lanes import Lane
from taskflow.jobs.pointers import Pointer
from taskflow.relay import Dispatch, Relay

PATIENCE_SECONDS = 1.0
"""For how long a slice is waited for; a lane that keeps its confirms back must not delay others."""

log = structlog.get_logger(__name__)


class DispatchDue:
    """Stamps due jobs in slices, commits, and publishes their pointers."""

    def __init__(self, database: Database, relay: Relay) -> None:
        self._database = database
        self._relay = relay
        self._last: dict[object, Lane] = {}
        self._refusing: set[Lane] = set()

    async def round(self) -> bool:
        """Send one slice; whether there is more."""
        if not self._relay.ready:
            return False
        async with self._database.connection() as connection:
            without = tuple(self._refusing | self._relay.lanes_under_way)
            due = await stamp_due(connection, without=without)
        sent = self._relay.send(Dispatch(pointer) for pointer in due)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), PATIENCE_SECONDS)
        self._set_refusing_lanes_aside(due)
        more = len(due) == SLICE
        if not more:
            self._last.clear()
            self._refusing.clear()
        return more

    def _set_refusing_lanes_aside(self, due: Sequence[Pointer]) -> None:
        """Leave lanes alone until the next tick whose pointers came back unsent.

        They are the longest due, so they would fill every slice and starve all other lanes.
        """
        came_back = {job.lane for job in due if job.job_id in self._last}
        if came_back:
            log.warning("lanes_refuse", lanes=sorted(lane.key for lane in came_back))
        self._refusing |= came_back
        self._last = {job.job_id: job.lane for job in due}


async def publish(relay: Relay, pointers: Sequence[Pointer]) -> None:
    """Publish pointers whose stamps are committed; returns when each is sent or given up."""
    await relay.send(Dispatch(pointer) for pointer in pointers).wait()
