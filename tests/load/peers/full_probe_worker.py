"""The worker at its least: what has come meanwhile is one claim and one completion."""

import asyncio
import json
import signal
import uuid

import aiormq
import asyncpg
import uvloop
from aiormq.abc import AbstractChannel, DeliveredMessage

from .full_probe_publisher import declare
from .settings import AMQP_URL, DATABASE_URL, QUEUE

_BATCH = 200
_PREFETCH = 4 * _BATCH
_CLAIM = """
UPDATE jobs SET state = 'running', attempt = attempt + 1, started_at = clock_timestamp()
WHERE id = ANY($1::uuid[]) AND finished_at IS NULL RETURNING id, attempt, payload
"""
_FINISH = """
UPDATE jobs SET state = 'completed', result = done.result, finished_at = clock_timestamp()
FROM unnest($1::uuid[], $2::int[], $3::jsonb[]) AS done (id, attempt, result)
WHERE jobs.id = done.id AND jobs.attempt = done.attempt AND jobs.state = 'running'
"""

Claimed = tuple[int, list[asyncpg.Record]]


class Worker:
    """One claims while the other completes; a message lives until its job is done."""

    def __init__(self, pool: asyncpg.Pool, channel: AbstractChannel) -> None:
        self._pool = pool
        self._channel = channel
        self._arrived: list[tuple[int, uuid.UUID]] = []
        self._has_arrived = asyncio.Event()
        self._claimed: asyncio.Queue[Claimed] = asyncio.Queue(maxsize=2)

    async def receive(self, message: DeliveredMessage) -> None:
        """Keep a message for the next batch."""
        assert message.delivery_tag is not None
        self._arrived.append((message.delivery_tag, uuid.UUID(bytes=bytes(message.body))))
        self._has_arrived.set()

    async def claim(self) -> None:
        """Claim batch after batch."""
        while True:
            await self._has_arrived.wait()
            batch = self._arrived[:_BATCH]
            del self._arrived[: len(batch)]
            if not self._arrived:
                self._has_arrived.clear()
            rows = await self._pool.fetch(_CLAIM, [job_id for _, job_id in batch])
            await self._claimed.put((batch[-1][0], rows))

    async def finish(self) -> None:
        """Echo, complete and acknowledge batch after batch."""
        while True:
            last_tag, rows = await self._claimed.get()
            results = [json.dumps({"text": json.loads(row["payload"])["text"]}) for row in rows]
            ids, attempts = [row["id"] for row in rows], [row["attempt"] for row in rows]
            await self._pool.execute(_FINISH, ids, attempts, results)
            await self._channel.basic_ack(last_tag, multiple=True, wait=False)


async def main() -> None:
    """Consume until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    connection = await aiormq.connect(AMQP_URL)
    async with asyncpg.create_pool(DATABASE_URL, min_size=2, max_size=2) as pool:
        channel = await connection.channel()
        await declare(channel)
        await channel.basic_qos(prefetch_count=_PREFETCH)
        worker = Worker(pool, channel)
        working = [asyncio.create_task(worker.claim()), asyncio.create_task(worker.finish())]
        await channel.basic_consume(QUEUE, worker.receive)
        waiting = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({waiting, *working}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, *working):
            task.cancel()
        for task in done:
            task.result()
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main())
