"""Whether the servers behind this one are well: each asked at once, none waited for long."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context
from typing import Any, Generic, Literal, TypeVar

import structlog
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError

from taskflow.broker.connection import Broker
from taskflow.db.pool import REFUSALS, TRANSIENT_ERRORS, Database
from taskflow.db.schema_version import check_schema
from taskflow.errors import SchemaBehind, ServiceUnavailable
from taskflow.object_store import ObjectStore
from taskflow.tls import certificate_problem

CHECK_SECONDS = 1.0

Answer = TypeVar("Answer")

_HINTS = {
    "database": "See TASKFLOW_DATABASE_URL. Nothing works without PostgreSQL.",
    "broker": "See TASKFLOW_AMQP_URL. Jobs are accepted and run once RabbitMQ is back.",
    "redis": "See TASKFLOW_REDIS_URL. Jobs go on; each API process counts rate limits alone.",
    "object_storage": "See TASKFLOW_S3_ENDPOINT. Jobs run; logs and large results come later.",
}

log = structlog.get_logger(__name__)


class DependencyHealth(BaseModel):
    """One server behind this one."""

    status: Literal["ok", "down"]
    latency_ms: float = Field(description="How long the check took.")
    hint: str | None = Field(None, description="What to look at.")


class Health(BaseModel):
    """The service and what it stands on."""

    status: Literal["ok", "degraded", "down"] = Field(
        description="degraded: jobs are accepted, but something is down."
    )
    dependencies: dict[str, DependencyHealth]


class HealthChecks:
    """Asks each dependency; who asks meanwhile gets the same answer.

    Anybody may ask, so that questions must not become as many connections to the servers.
    """

    def __init__(
        self, database: Database, broker: Broker, redis: Redis, object_store: ObjectStore
    ) -> None:
        self._pool = database
        self._broker = broker
        self._redis = redis
        self._object_store = object_store
        self._health = _Shared(self._ask_all)
        self._database = _Shared(self._ask_database)

    async def check(self) -> Health:
        """Ask all of them at once; done in about a second whatever they do."""
        return await self._health.answer()

    async def require_database(self) -> None:
        """Pass when PostgreSQL answers soon, with the tables that this code needs.

        Raises:
            ServiceUnavailable: it doesn't answer.
            SchemaBehind: migrations are missing.
        """
        await self._database.answer()

    async def _ask_all(self) -> Health:
        checks: Mapping[str, Callable[[], Awaitable[object]]] = {
            "database": self._check_database,
            "broker": self._check_broker,
            "redis": self._check_redis,
            "object_storage": self._object_store.ping,
        }
        answers = await asyncio.gather(*(_ask(name, check) for name, check in checks.items()))
        dependencies = dict(zip(checks, answers, strict=True))
        down = {name for name, answer in dependencies.items() if answer.status == "down"}
        if "database" in down:
            return Health(status="down", dependencies=dependencies)
        return Health(status="degraded" if down else "ok", dependencies=dependencies)

    async def _ask_database(self) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._check_database()
        except TimeoutError:
            reason = f"no answer in {CHECK_SECONDS:g} s"
            raise ServiceUnavailable("PostgreSQL", reason) from None

    async def _check_database(self) -> None:
        try:
            async with self._pool.connection() as connection:
                await check_schema(connection)
        except (*TRANSIENT_ERRORS, *REFUSALS) as error:
            raise ServiceUnavailable("PostgreSQL", str(error) or type(error).__name__) from error

    async def _check_broker(self) -> None:
        async with self._broker.short_channel():
            pass

    async def _check_redis(self) -> None:
        await self._redis.ping()


class _Shared(Generic[Answer]):
    """A question that is under way once at most."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[Answer] | None = None

    async def answer(self) -> Answer:
        """The answer to the question under way, else to a new one; raises what it raises."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="health", context=Context())
        return await asyncio.shield(self._asking)


async def _ask(name: str, check: Callable[[], Awaitable[object]]) -> DependencyHealth:
    began = time.perf_counter()
    reason = None
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        reason = f"no answer in {CHECK_SECONDS:g} s"
    except (ServiceUnavailable, SchemaBehind, RedisError, OSError) as error:
        reason = certificate_problem(error) or str(error) or type(error).__name__
    latency_ms = round((time.perf_counter() - began) * 1000, 1)
    if reason is None:
        return DependencyHealth(status="ok", latency_ms=latency_ms)
    # The reason names addresses: it is for the log, not for whoever asks.
    log.warning("dependency_down", dependency=name, error=reason)
    return DependencyHealth(status="down", latency_ms=latency_ms, hint=_HINTS[name])
