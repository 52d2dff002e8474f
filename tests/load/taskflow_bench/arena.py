"""The servers that all contestants share, and what each turn has on them for itself."""

import asyncio
import contextlib
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from taskflow_bench.contestants import Contestant
from taskflow_bench.errors import BenchBroke
from taskflow_testing.broker import create_virtual_host, delete_virtual_host
from taskflow_testing.database import create_database, drop_database
from taskflow_testing.object_store import TestBucket, create_bucket
from taskflow_testing.own_servers import ServerSet, four_servers

PEERS = Path("tests") / "load" / "peers"


@dataclass(frozen=True)
class Arena:
    """Servers that run, below `folder`."""

    servers: ServerSet
    folder: Path
    checkout: Path


@dataclass(frozen=True)
class Place:
    """What one turn has for itself: nothing of the turns before is in it."""

    database_url: str
    amqp_url: str
    redis_url: str
    bucket: TestBucket
    checkout: Path

    def environment(self) -> dict[str, str]:
        """The variables by which the peers find it, and what sets TaskFlow up."""
        return {
            "TASKFLOW_AMQP_URL": self.amqp_url,
            "PEER_DATABASE_URL": self.database_url,
            "PEER_AMQP_URL": self.amqp_url,
            "PYTHONPATH": str(self.checkout / PEERS.parent),
        }


@contextlib.asynccontextmanager
async def open_arena(folder: Path, checkout: Path) -> AsyncIterator[Arena]:
    """The four servers, set up as `make up` does it; none runs afterwards."""
    servers = four_servers(folder)
    try:
        async with asyncio.TaskGroup() as tasks:
            for server in servers.all():
                tasks.create_task(server.start())
        yield Arena(servers, folder, checkout)
    finally:
        for server in servers.all():
            await server.destroy()


@contextlib.asynccontextmanager
async def fresh_place(
    arena: Arena, contestant: Contestant, environment: Mapping[str, str]
) -> AsyncIterator[Place]:
    """A database, a virtual host and a bucket; `environment` is what its setup is run with."""
    servers = arena.servers
    async with contextlib.AsyncExitStack() as stack:
        database_url = await _create_database(arena, contestant)
        stack.push_async_callback(drop_database, servers.postgres.url, database_url)
        amqp_url = await asyncio.to_thread(
            create_virtual_host, servers.rabbitmq_management_url, servers.rabbitmq.url
        )
        stack.push_async_callback(
            asyncio.to_thread, delete_virtual_host, servers.rabbitmq_management_url, amqp_url
        )
        # It stays in the run's folder: to delete objects one by one may outlast the turn.
        bucket = await asyncio.to_thread(
            create_bucket, servers.s3.url, servers.s3_access_key, servers.s3_secret_key
        )
        place = Place(database_url, amqp_url, servers.redis.url, bucket, arena.checkout)
        if contestant.setup is not None:
            variables = {**environment, **place.environment()}
            await _set_up(contestant.setup, variables, arena.folder)
        await _checkpoint(servers.postgres.url)
        yield place


async def _create_database(arena: Arena, contestant: Contestant) -> str:
    server_url = arena.servers.postgres.url
    if contestant.schema is None:
        return await create_database(server_url, arena.checkout)
    name = f"bench_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    database_url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute((arena.checkout / PEERS / contestant.schema).read_text())
    finally:
        await connection.close()
    return database_url


async def _set_up(setup: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *setup,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise BenchBroke(f"{' '.join(setup)} failed:\n{output.decode()}")


async def _checkpoint(server_url: str) -> None:
    """Have what the turn before has written on the disk, so that this one does not pay for it."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
