"""What the lean probe's two processes have in common."""

from aio_pika.abc import AbstractChannel, AbstractQueue
from asyncpg import Connection, Pool, create_pool

from .settings import DATABASE_URL, QUEUE


def open_pool() -> Pool:
    """Connections that are not reset: nobody here leaves anything behind in one."""
    return create_pool(DATABASE_URL, min_size=4, max_size=10, reset=_leave)


async def declare(channel: AbstractChannel) -> AbstractQueue:
    """The quorum queue."""
    return await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


async def _leave(_: Connection) -> None:
    pass
