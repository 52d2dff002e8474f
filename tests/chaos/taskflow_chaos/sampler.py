"""I10 while a scenario runs: no lease is expired for long."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg

from taskflow.doctor.invariants import Finding, load, run
from taskflow_testing.own_servers import Server

LEASES_ARE_FRESH = "I10"
_PERIOD_SECONDS = 1.0
_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class LeaseSampler:
    """Looks every second. `samples` counts the looks that were proof, `broken` what they found.

    Leases are ended by way of the database: a look is proof once that has been in reach for
    `grace_seconds` without a break.
    """

    def __init__(self, postgres: Server, grace_seconds: float = 20.0) -> None:
        self.samples = 0
        self.broken: list[Finding] = []
        self._postgres = postgres
        self._grace_seconds = grace_seconds
        self._invariants = [each for each in load().values() if each.code == LEASES_ARE_FRESH]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sample during the block."""
        sampling = asyncio.create_task(self._run(), name="lease sampler")
        try:
            yield
        finally:
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(*_ERRORS):  # a scenario's fault: contact begins anew
                await self._sample()
            await asyncio.sleep(_PERIOD_SECONDS)

    async def _sample(self) -> None:
        """Look until contact is lost."""
        connection = await asyncpg.connect(self._postgres.url, timeout=5, command_timeout=5)
        connected_at = time.time()
        try:
            while True:
                findings = await run(connection, invariants=self._invariants)
                since = max([connected_at, *(each.ended or 0.0 for each in self._postgres.outages)])
                if not self._postgres.is_away and time.time() - since > self._grace_seconds:
                    self.samples += 1
                    self.broken += [each for each in findings if not each.holds]
                await asyncio.sleep(_PERIOD_SECONDS)
        finally:
            connection.terminate()
