"""Some workers of one cast, who come and go together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from taskflow_bench.cast import Cast
from taskflow_testing.services import ServiceProcess

SUBSCRIBED = "subscribed"
"""What a worker logs when it is ready."""

# Only writers wait for this lock. Whose transaction has it writes nothing, and needs none.
_HOLD = "LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE"

PATIENT = {"database_statement_timeout_seconds": 60}
"""Settings of workers who are to wait until `held_back` is over."""


class Crew:
    """The cast's worker and `count - 1` more."""

    def __init__(self, cast: Cast, count: int = 1) -> None:
        self._cast = cast
        self._names = ["worker", *(f"worker-{number}" for number in range(2, count + 1))]

    async def start(self) -> None:
        """Start those that don't run, and wait until all are ready."""
        for name in self._names:
            if name not in self._cast.running:
                self._cast.start(name)
        for name in self._names:
            await _wait_ready(self._cast.running[name])

    async def stop(self) -> None:
        """Stop them all."""
        await asyncio.gather(*map(self._cast.stop, self._names))

    @contextlib.asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """Within the block no job is claimed: whoever is ready waits, and all begin at once."""
        connection = await asyncpg.connect(self._cast.place.database_url)
        try:
            async with connection.transaction():
                await connection.execute(_HOLD)
                yield
        finally:
            await connection.close()


async def _wait_ready(process: ServiceProcess) -> None:
    async def is_ready() -> bool:
        return bool(process.events(SUBSCRIBED))

    await process.wait_ready(is_ready)
