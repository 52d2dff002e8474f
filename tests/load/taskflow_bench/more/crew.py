"""Some workers of one cast, who come and go together."""

import asyncio

import asyncpg

from taskflow_bench.cast import Cast

_REGISTERED_AT = """
SELECT extract(epoch FROM started_at)::float8 FROM workers WHERE pid = $1 AND state = 'running'
"""


class Crew:
    """The cast's worker and `count - 1` more."""

    def __init__(self, cast: Cast, count: int = 1) -> None:
        self._cast = cast
        self._names = ["worker", *(f"worker-{number}" for number in range(2, count + 1))]

    async def start(self) -> float:
        """Start those that don't run, and wait until all are ready; when that was (since 1970)."""
        for name in self._names:
            if name not in self._cast.running:
                self._cast.start(name)
        connection = await asyncpg.connect(self._cast.place.database_url)
        try:
            return max([await self._ready_at(connection, name) for name in self._names])
        finally:
            await connection.close()

    async def stop(self) -> None:
        """Stop them all."""
        await asyncio.gather(*map(self._cast.stop, self._names))

    async def _ready_at(self, connection: asyncpg.Connection, name: str) -> float:
        process = self._cast.running[name]
        moments: list[float] = []

        async def is_ready() -> bool:
            moment = await connection.fetchval(_REGISTERED_AT, process.pid)
            moments.extend([] if moment is None else [moment])
            return bool(moments)

        await process.wait_ready(is_ready)
        return moments[-1]
