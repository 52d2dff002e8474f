"""The worker without an ORM: for each message a claim, a completion, and an acknowledgement."""

import asyncio
import json
import signal
import uuid

import aio_pika
import asyncpg
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from .lean_probe_servers import declare, open_pool
from .settings import AMQP_URL

_PREFETCH = 100
_CLAIM = """
UPDATE jobs SET state = 'running', attempt = attempt + 1, started_at = clock_timestamp()
WHERE id = $1 AND finished_at IS NULL RETURNING attempt, payload
"""
_FINISH = """
UPDATE jobs SET state = 'completed', result = $3, finished_at = clock_timestamp()
WHERE id = $1 AND attempt = $2 AND state = 'running'
"""


async def run(pool: asyncpg.Pool, message: AbstractIncomingMessage) -> None:
    """Claim, echo, complete; the message lives until then."""
    job_id = uuid.UUID(bytes=message.body)
    claimed = await pool.fetchrow(_CLAIM, job_id)
    if claimed is not None:
        result = {"text": json.loads(claimed["payload"])["text"]}
        await pool.execute(_FINISH, job_id, claimed["attempt"], json.dumps(result))
    await message.ack()


async def main() -> None:
    """Consume until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with open_pool() as pool, await aio_pika.connect_robust(AMQP_URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=_PREFETCH)
        queue = await declare(channel)
        await queue.consume(lambda message: run(pool, message))
        await stopping.wait()


if __name__ == "__main__":
    uvloop.run(main())
