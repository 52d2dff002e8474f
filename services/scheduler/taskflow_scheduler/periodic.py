"""The one way in which a loop runs: round after round, only while this process leads."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from taskflow.broker.outages import OUTAGE_ERRORS, library_cancellations
from taskflow.db.pool import TRANSIENT_ERRORS
from taskflow.errors import PublishFailed, ServiceUnavailable
from taskflow.patience import pause_seconds

LONGEST_BACKOFF_SECONDS = 5.0
JITTER = 0.2

Round = Callable[[], Awaitable[bool]]
"""One slice of a loop's work; True: there is more, go on at once."""

Watch = Callable[[], Awaitable[None]]
"""What a loop does in place of a round while another process leads."""

_AWAY: tuple[type[BaseException], ...] = (
    *TRANSIENT_ERRORS,
    *OUTAGE_ERRORS,
    ServiceUnavailable,
    PublishFailed,
)

log = structlog.get_logger(__name__)


class PeriodicLoop:
    """Repeats a round and outlives its errors; `bugs` counts those that no outage explains."""

    def __init__(
        self,
        name: str,
        round_: Round,
        *,
        every_seconds: float,
        leads: Callable[[], bool],
        watch: Watch | None = None,
    ) -> None:
        self.bugs = 0
        self._name = name
        self._round = round_
        self._every = every_seconds
        self._leads = leads
        self._watch = watch
        self._stopping = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with the first round."""
        if self._runner is None:
            self._stopping.clear()
            self._runner = asyncio.create_task(self._run(), name=self._name)

    async def stop(self, timeout_seconds: float) -> None:
        """Let the round end, or cut it off after `timeout_seconds`; a second call does nothing."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._stopping.set()
        await asyncio.wait([runner], timeout=timeout_seconds)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            more = False
            try:
                with library_cancellations():
                    more = await self._act()
                failures = 0
            except _AWAY as error:
                failures += 1
                self._report_away(error, failures)
            except Exception:
                failures += 1
                self.bugs += 1
                log.exception("round_broke", loop=self._name, bugs=self.bugs)
            await self._pause(more=more, failures=failures)

    async def _act(self) -> bool:
        if self._leads():
            return await self._round()
        if self._watch is not None:
            await self._watch()
        return False

    async def _pause(self, *, more: bool, failures: int) -> None:
        if more:
            # Others want the loop of this process, too.
            seconds = 0.0
        elif failures:
            longest = max(self._every, LONGEST_BACKOFF_SECONDS)
            seconds = pause_seconds(failures, first=self._every, last=longest)
        else:
            # So that the loops of several schedulers don't meet all the time.
            seconds = self._every * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _report_away(self, error: BaseException, failures: int) -> None:
        # Said when it begins, then at every tenth time: an outage must not fill a disk.
        if failures % 10 == 1:
            text = str(error) or type(error).__name__
            log.warning("round_failed", loop=self._name, error=text, failures=failures)
