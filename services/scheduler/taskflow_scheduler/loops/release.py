"""Releases jobs that are held, as far as their tenants may run more."""

from taskflow.db.pool import Database
from taskflow.jobs.dispatch import SLICE
from taskflow.jobs.holding import release
from taskflow.relay import Dispatch, Relay


class ReleaseHeld:
    """Stamps them in slices, commits, and publishes their pointers."""

    def __init__(self, database: Database, relay: Relay, *, running_quota: int) -> None:
        self._database = database
        self._relay = relay
        self._running_quota = running_quota

    async def round(self) -> bool:
        """Send one slice; whether there is more."""
        if not self._relay.ready:
            return False
        async with self._database.connection() as connection:
            released = await release(connection, running_quota=self._running_quota)
        self._relay.send(Dispatch(pointer) for pointer in released)
        return len(released) == SLICE
