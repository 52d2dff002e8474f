from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from taskflow.jobs.workers import JobTypeRegistration, register_job_types
from taskflow.settings import ApiSettings
from taskflow_api.app import create_app
from taskflow_local import redis
from taskflow_local.ports import LOOPBACK, choose_free
from taskflow_testing.jobs import Jobs
from taskflow_testing.object_store import TestBucket
from taskflow_testing.own_servers import Server
from taskflow_testing.services import Servers

API_KEY = "tf_live_testing_only"

Register = Callable[..., Awaitable[None]]
Start = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def setting_values(
    clean_database: str, amqp_url: str, redis_url: str, s3: TestBucket
) -> dict[str, Any]:
    return {
        "database_url": clean_database,
        "amqp_url": amqp_url,
        "redis_url": redis_url,
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_bucket": s3.bucket,
        "api_key": API_KEY,
        "jwt_secret": "of_at_least_thirty_two_characters",
        "database_pool_size": 5,
    }


@pytest.fixture
def own_servers(clean_database: str, amqp_url: str, redis_url: str, s3: TestBucket) -> Servers:
    """The servers, for a service as a process."""
    return Servers(clean_database, amqp_url, redis_url, s3)


@pytest.fixture
async def connection(clean_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(clean_database)
    yield connection
    await connection.close()


@pytest.fixture
def jobs(connection: asyncpg.Connection) -> Jobs:
    return Jobs(connection)


@pytest.fixture
async def register(connection: asyncpg.Connection) -> Register:
    """Registers a job type as a consumer would: `await register("echo", schema={...})`."""

    async def register_one(name: str, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "name": name,
            "schema": {"type": "object"},
            "queue": "default",
            "max_attempts": 4,
            "timeout_seconds": None,
            "description": None,
        }
        await register_job_types(connection, [JobTypeRegistration(**fields | changes)])

    await register_one("echo")
    return register_one


@asynccontextmanager
async def _client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key, straight into the application."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://api", headers={"X-API-Key": API_KEY}
        ) as client,
    ):
        yield client


@pytest.fixture
def start(setting_values: dict[str, Any], register: Register) -> Start:
    """Starts a service with other settings: `async with start(database_pool_size=1) as api`."""

    def start_one(**changes: Any) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return _client(create_app(ApiSettings(_env_file=None, **setting_values | changes)))

    return start_one


@pytest.fixture
def app(setting_values: dict[str, Any], register: Register) -> FastAPI:
    """The service that `api` speaks to."""
    return create_app(ApiSettings(_env_file=None, **setting_values))


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key, straight into the application."""
    async with _client(app) as client:
        yield client


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that may be stopped."""
    (port,) = choose_free(1)
    component = redis.Redis(tmp_path / "redis", port, "secret", throwaway=True)
    server = Server(component, f"redis://:secret@{LOOPBACK}:{port}/0", tmp_path)
    await server.start()
    yield server
    await server.destroy()


async def _kill(server: Server) -> None:
    await server.kill()


async def _start(server: Server) -> None:
    await server.start()


async def _freeze(server: Server) -> None:
    server.freeze()


async def _thaw(server: Server) -> None:
    server.thaw()


async def _make_replica(server: Server) -> None:
    async with Redis.from_url(server.url) as client:
        await client.replicaof(LOOPBACK, 1)


async def _make_primary(server: Server) -> None:
    async with Redis.from_url(server.url) as client:
        await client.replicaof("NO", "ONE")


async def _fill(server: Server) -> None:
    async with Redis.from_url(server.url) as client:
        await client.config_set("maxmemory", 1)


async def _make_room(server: Server) -> None:
    async with Redis.from_url(server.url) as client:
        await client.config_set("maxmemory", 0)


@dataclass(frozen=True)
class RedisFault:
    """What is done to `own_redis`, and what ends it."""

    begin: Callable[[Server], Awaitable[None]]
    end: Callable[[Server], Awaitable[None]]


@pytest.fixture(
    params=[(_kill, _start), (_freeze, _thaw), (_make_replica, _make_primary), (_fill, _make_room)],
    ids=["killed", "frozen", "read-only", "full"],
)
def redis_fault(request: pytest.FixtureRequest) -> RedisFault:
    """Each way of being away in turn."""
    return RedisFault(*request.param)
