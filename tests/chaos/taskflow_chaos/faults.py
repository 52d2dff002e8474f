"""Faults that take a while and end by themselves, for scenarios that mix them.

Each leaves behind what it found: servers run, proxies pass everything on.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import asyncpg
from redis.asyncio import Redis

from taskflow_chaos import backends, small_disk
from taskflow_chaos.keeper import Keeper
from taskflow_chaos.rabbitmqctl import rabbitmqctl
from taskflow_chaos.stage import Stage
from taskflow_testing.own_servers import Server, ServerBroke
from taskflow_testing.tcp_proxy import TcpProxy

DATABASE_DISK = Path("servers/postgres")
"""Where PostgreSQL keeps all it has, below the scenario's folder."""
DATABASE_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_BACK_SECONDS = 60.0
_SUPERVISOR_SECONDS = 1.0
_FILL_SECONDS = 0.5
_SWITCH_SECONDS = 5.0
_POLL_SECONDS = 0.1


async def kill_server(server: Server, away_seconds: float = 0.0) -> None:
    """SIGKILL it, and start it again after a while."""
    await server.kill()
    await asyncio.sleep(away_seconds)
    await server.start()


async def freeze_server(server: Server, seconds: float) -> None:
    """SIGSTOP all its processes for a while."""
    server.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        server.thaw()


async def restart_database(stage: Stage) -> None:
    """Shut PostgreSQL down in immediate mode, which cuts every transaction, and start it."""
    await stage.cluster.postgres.end(signal.SIGQUIT)
    await stage.cluster.postgres.start()


async def terminate_backends(
    stage: Stage, rng: random.Random, count: int, *, at_once: int, wave_seconds: float
) -> int:
    """End backends of the services in waves, whichever there are; how many were ended: `count`."""
    connection = await stage.cluster.connect()
    try:
        ended = 0
        while ended < count:
            found = await backends.pids(connection)
            wanted = min(at_once, count - ended, len(found))
            ended += await backends.terminate(connection, rng.sample(found, wanted))
            await asyncio.sleep(wave_seconds)
    finally:
        await connection.close()
    return ended


async def fill_database_disk(stage: Stage, seconds: float, *, ends_wal: bool) -> float:
    """Keep the disk of PostgreSQL full for a while; returns when there is room and it answers, with
    the seconds that this took it.

    With `ends_wal` it has to begin files of its write-ahead log and panics. Its supervisor, which
    is played here, starts it again and again.
    """
    disk = stage.cluster.folder / DATABASE_DISK
    # Begun before the disk is full: a session may need room to begin.
    session = await stage.cluster.connect() if ends_wal else None
    postgres = stage.cluster.postgres
    async with _ended(session):
        with postgres.being_away():
            async with _supervised(postgres):
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    await asyncio.to_thread(small_disk.fill, disk)
                    if session is not None:
                        await _end_wal_segment(session)
                    await asyncio.sleep(_FILL_SECONDS)
                room_at = time.monotonic()
                small_disk.make_room(disk)
                await _wait_answering(stage)
                return time.monotonic() - room_at


async def raise_alarm(
    broker: Server, limit: tuple[str, ...], usual: tuple[str, ...], seconds: float
) -> None:
    """Set a limit of the broker's so that it raises its alarm, and back after a while."""
    await rabbitmqctl(broker, *limit)
    try:
        await asyncio.sleep(seconds)
    finally:
        await rabbitmqctl(broker, *usual)


async def purge_queues(broker: Server) -> Counter[str]:
    """Delete whatever lies in any queue; how many messages that were, by queue."""
    purged: Counter[str] = Counter()
    names = (await rabbitmqctl(broker, "list_queues", "name")).split()
    connection = await aio_pika.connect(broker.url, timeout=10)
    async with connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for name in names:
            purged[name] = (await channel.queue_purge(name, timeout=10)).message_count or 0
    return purged


async def reset_broker(broker: Server) -> None:
    """Set it up anew: no queue, no exchange, no message."""
    for command in ("stop_app", "reset", "start_app"):
        await rabbitmqctl(broker, command)


async def flush_redis(redis: Server) -> None:
    """Empty it."""
    async with Redis.from_url(redis.url) as client:
        await client.flushall()


async def take_down(proxy: TcpProxy, seconds: float) -> None:
    """Reset whatever goes through the proxy for a while."""
    proxy.go_down()
    try:
        await asyncio.sleep(seconds)
    finally:
        proxy.come_back()


async def cut_off(proxy: TcpProxy, seconds: float) -> None:
    """Pass nothing on for a while, as a network does that has parted."""
    proxy.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        proxy.thaw()


async def slow_down(proxy: TcpProxy, delay_seconds: float, seconds: float) -> None:
    """Hold each piece of an answer back, for a while."""
    proxy.answer_delay_seconds = delay_seconds
    try:
        await asyncio.sleep(seconds)
    finally:
        proxy.answer_delay_seconds = 0.0


async def cut_answers(proxy: TcpProxy, rng: random.Random, seconds: float) -> None:
    """Cut answers short, each second at another place: in the head, in the body, or not at all."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            proxy.answer_limit_bytes = rng.randint(20, 2_000)
            await asyncio.sleep(1.0)
    finally:
        proxy.answer_limit_bytes = None


async def freeze_service(service: Keeper, seconds: float, *, with_children: bool) -> bool:
    """SIGSTOP a service for a while; False: it did not run."""
    if not (service.freeze_all() if with_children else service.freeze()):
        return False
    try:
        await asyncio.sleep(seconds)
    finally:
        service.thaw()
    return True


@contextlib.asynccontextmanager
async def _supervised(server: Server) -> AsyncIterator[None]:
    """During the block, start it again whenever it has ended, also in vain."""

    async def supervise() -> None:
        while True:
            with contextlib.suppress(ServerBroke):
                await server.start()
            await asyncio.sleep(_SUPERVISOR_SECONDS)

    supervising = asyncio.create_task(supervise())
    try:
        yield
    finally:
        supervising.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervising


@contextlib.asynccontextmanager
async def _ended(session: asyncpg.Connection | None) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if session is not None:
            session.terminate()


async def _end_wal_segment(session: asyncpg.Connection) -> None:
    """Have PostgreSQL begin a new file of its write-ahead log, for which there is no room.

    It has some in stock, and panics when they are used up: then it is away, and the session ended.
    """
    with contextlib.suppress(*DATABASE_AWAY):
        await session.execute("SELECT pg_switch_wal()", timeout=_SWITCH_SECONDS)


async def _wait_answering(stage: Stage) -> None:
    async with asyncio.timeout(_BACK_SECONDS):
        while True:
            with contextlib.suppress(*DATABASE_AWAY):
                connection = await stage.cluster.connect()
                connection.terminate()
                return
            await asyncio.sleep(_POLL_SECONDS)
