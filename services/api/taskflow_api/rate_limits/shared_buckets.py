"""The buckets in Redis, which all API processes share."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from taskflow.batching import Batcher, BatcherClosed
from taskflow.errors import ServiceUnavailable
from taskflow.patience import pause_seconds
from taskflow.tls import certificate_problem
from taskflow_api.rate_limits.bucket import Policy
from taskflow_api.rate_limits.script import TakeScript
from taskflow_api.rate_limits.takes import Bucket, Take, Taken

ANSWER_SECONDS = 0.05
"""How long Redis may take for a call; a caller waits for its own, and for what is left of the one
before it."""

CONNECT_SECONDS = 1.0
MAX_BATCH = 1_000
"""More than ever wait at once: who is left out waits for one call more."""

PROBE_PAUSE_SECONDS = 1.0
"""The longest pause between two looks at a Redis that is away."""

_PROBE = Take([Bucket(Policy("probe", 1, 1), "api")], cost=1)

log = structlog.get_logger(__name__)


class SharedBucketsAway(Exception):
    """Redis does not answer, or not in time. What it was sent may count all the same."""


class SharedBuckets:
    """Takes tokens by one script; the takes that wait while one runs go together into the next.

    Once Redis has failed, nobody waits for it: it is looked after beside the requests until it
    takes tokens again.
    """

    def __init__(
        self, redis: Redis, *, on_away: Callable[[Exception], None] = lambda _: None
    ) -> None:
        """`on_away`: told when Redis has failed."""
        self._script = TakeScript(redis)
        self._batcher: Batcher[Take, Taken] = Batcher(
            self._take_batch, max_items=MAX_BATCH, skip_cancelled=True
        )
        self._on_away = on_away
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self, take: Take) -> Taken:
        """Take tokens.

        Raises:
            SharedBucketsAway: Redis can't be asked now.
        """
        if self._looking is not None:
            raise SharedBucketsAway
        try:
            # No time-out here: how long a caller waits also depends on how busy this process is.
            return await self._batcher.submit(take)
        except (ServiceUnavailable, BatcherClosed) as error:
            raise SharedBucketsAway from error

    async def close(self) -> None:
        """Ask Redis no more."""
        # The client may lose a cancellation: `wait_for` of Python 3.11 does.
        self._closed = True
        await self._batcher.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._script.close()

    async def _take_batch(self, batch: Sequence[Take]) -> Sequence[Taken]:
        if self._looking is not None:
            raise SharedBucketsAway
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._script.run(batch)
        except (OSError, RedisError) as error:
            said = certificate_problem(error) or str(error) or type(error).__name__
            log.warning("rate_limits_local", error=said)
            self._looking = asyncio.create_task(
                self._look(), name="rate-limits-probe", context=Context()
            )
            self._on_away(error)
            raise SharedBucketsAway from error

    async def _look(self) -> None:
        """Return when Redis takes tokens again, and in time."""
        failures = 0
        while not await self._is_well():
            if self._closed:
                return
            failures += 1
            await asyncio.sleep(pause_seconds(failures, last=PROBE_PAUSE_SECONDS))
        self._looking = None
        log.info("rate_limits_shared")

    async def _is_well(self) -> bool:
        try:
            # It may take its time here, where nobody waits for it.
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._script.connect()
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._script.run([_PROBE])
        except (OSError, RedisError):
            return False
        return True
