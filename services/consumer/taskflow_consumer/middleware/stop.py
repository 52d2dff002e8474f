"""The order to stop, which ends an attempt before its handler does."""

import asyncio
from enum import StrEnum


class StopReason(StrEnum):
    """Why an attempt is to end before its handler does."""

    TIMEOUT = "timeout"
    CANCEL_REQUESTED = "cancel_requested"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"


class Stop:
    """The order to stop; the first reason stands. The loop's thread gives it, any may look."""

    def __init__(self) -> None:
        self.ordered: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()

    @property
    def reason(self) -> StopReason | None:
        """Why; None: go on."""
        return self.ordered.result() if self.ordered.done() else None

    def order(self, reason: StopReason) -> None:
        """Tell the attempt to stop; again changes nothing."""
        if not self.ordered.done():
            self.ordered.set_result(reason)
